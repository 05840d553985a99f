# Fine-tunes published weights on your images: PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg.
# python tools/train.py configs/classification/folder_finetune.py --cfg-options data.root=PATH
# Offline, or from an official file: --cfg-options data.root=PATH model.pretrained=False model.checkpoint=FILE
model = dict(name='vim_tiny_patch16_224', pretrained=True, drop_path_rate=0.1)
data = dict(name='folder', root='data/images', batch_size=32)
augment = dict(style='imagenet', scale=(0.35, 1.0), color_jitter=0.3, smoothing=0.1)
optim = dict(name='adamw', lr=2e-4, weight_decay=0.05, layer_decay=0.75, clip_grad=1.0)
schedule = dict(epochs=20, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-6)
run = dict(ema=0.999, ema_warmup=True)
