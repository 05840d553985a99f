# Moving digits: one real handwritten digit moves in one of 8 directions among distractors. No download.
# python tools/train.py configs/video/moving_digits_videomamba.py
# Ten minutes on two CPU cores. Expected top-1: see the table in docs/video.md.
task = dict(name='video')
model = dict(
    name='videomamba_tiny_patch16_224_f8', img_size=32, patch_size=8, stride=4, tubelet_size=4, embed_dim=96, depth=6
)
data = dict(
    name='moving_digits',
    batch_size=32,
    eval_batch_size=50,
    workers=1,
    mean=(0.3, 0.3, 0.3),
    std=(0.3, 0.3, 0.3),
    crop_pct=1.0,
)
augment = dict(style='clip', scale=(0.7, 1.0), ratio=(0.9, 1.11))
optim = dict(name='adamw', lr=2e-3, weight_decay=0.05, clip_grad=1.0)
schedule = dict(epochs=12, warmup_epochs=0.5, min_lr=1e-5)
run = dict(ema=0.995, ema_warmup=True, log_interval=50)
