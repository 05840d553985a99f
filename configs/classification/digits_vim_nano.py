# Vim-nano (0.14 M parameters) on the 1,797 digits inside scikit-learn: 1,258 train, 269 validation, 270 test.
# python tools/train.py configs/classification/digits_vim_nano.py
# python tools/test.py configs/classification/digits_vim_nano.py runs/digits_vim_nano/last.pth --split test
# About two minutes on two CPU cores. Expected top-1 on the test part: see the table in docs/training.md.
model = dict(name='vim_nano_patch4_32', img_size=16, in_chans=1, global_pool='avg', drop_path_rate=0.05)
data = dict(name='digits', batch_size=64, eval_batch_size=128, workers=0, mean=[0.3], std=[0.37], crop_pct=1.0)
augment = dict(style='small', degrees=12, translate=0.1, scale=(0.88, 1.12), shear=8, smoothing=0.1)
optim = dict(name='adamw', lr=3e-3, weight_decay=0.05, clip_grad=1.0)
schedule = dict(epochs=30, warmup_epochs=3)
run = dict(ema=0.99, ema_warmup=True, log_interval=0, val_interval=5)
