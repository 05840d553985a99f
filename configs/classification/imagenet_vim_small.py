# vim_small_patch16_224 on ImageNet-1k: 300 epochs, 512 images per step.
# torchrun --nproc-per-node 8 tools/train.py configs/classification/imagenet_vim_small.py --cfg-options data.root=PATH
# The authors' script uses 8 GPUs; they publish no time.
# Expected top-1 / top-5: 80.5 / 95.1, published by the authors (hustvl/Vim README). Not measured here.
_base_ = '../_base_/imagenet_deit.py'
model = dict(name='vim_small_patch16_224', drop_path_rate=0.05)
data = dict(batch_size=64)
optim = dict(lr=1e-3)
