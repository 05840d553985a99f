# Fine-tunes Kinetics-400 weights on your videos: PATH/train/<class>/*.mp4 and PATH/val/<class>/*.mp4.
# python tools/train.py configs/video/folder_finetune.py --cfg-options data.root=PATH
# Offline, or from an official file: --cfg-options data.root=PATH model.pretrained=False model.checkpoint=FILE
# If classes differ by left and right or by direction: --cfg-options augment.hflip=0.0
# For motion of a second or two in long videos: --cfg-options data.sampling=dense data.frame_interval=4 data.num_clips=4
# If memory is short: --cfg-options data.batch_size=2 run.accumulate=4 run.grad_checkpointing=True
task = dict(name='video')
model = dict(name='videomamba_tiny_patch16_224_f8', pretrained=True, drop_path_rate=0.1)
data = dict(name='video_folder', root='data/videos', batch_size=8, repeats=2, sampling='uniform', workers=4)
augment = dict(style='clip', scale=(0.35, 1.0), hflip=0.5, color_jitter=0.3, smoothing=0.1)
optim = dict(name='adamw', lr=1e-4, weight_decay=0.05, layer_decay=0.75, clip_grad=1.0)
schedule = dict(epochs=20, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-6)
run = dict(ema=0.999, ema_warmup=True)
