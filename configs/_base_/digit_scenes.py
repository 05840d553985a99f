# Digit scenes of 128 x 128 pixels and a VMamba of 1.5 M parameters, from scratch: ten minutes on two CPU cores.
model = dict(name='test_vmamba', img_size=128)
data = dict(
    name='digit_scenes', batch_size=8, eval_batch_size=16, workers=1, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
augment = dict(style='dense', hflip=0.0)  # a mirrored digit is not a digit
optim = dict(name='adamw', lr=1e-3, weight_decay=0.05, clip_grad=5.0)
schedule = dict(epochs=4, warmup_epochs=0.4, min_lr=1e-6)
run = dict(ema=0.998, ema_warmup=True, log_interval=64)
