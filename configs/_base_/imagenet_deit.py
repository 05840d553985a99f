# The recipe that trained Vim on ImageNet-1k: DeiT's (arXiv:2012.12877, Table 9), in float32 as in the authors'
# scripts. Learning rates are for 512 images per step and scale linearly with the batch.
# Differences: the learning rate changes every step instead of every epoch. Repeated augmentation (arXiv:1901.09335),
# which their sampler does by default, is left out.
# data.root: a folder with train/ and val/, each with one folder per class (n01440764, ...).
data = dict(name='imagenet', root='data/imagenet', batch_size=128, workers=10)
augment = dict(
    style='imagenet',
    auto_augment='rand-m9-mstd0.5-inc1',
    re_prob=0.25,
    mixup=0.8,
    cutmix=1.0,
    smoothing=0.1,
)
optim = dict(name='adamw', lr=5e-4, lr_batch=512, weight_decay=0.05)
schedule = dict(epochs=300, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5)
run = dict(ema=0.99996, checkpoint_interval=1000)
