# vim_tiny_patch16_224 on ImageNet-1k: 300 epochs, 1024 images per step.
# torchrun --nproc-per-node 8 tools/train.py configs/classification/imagenet_vim_tiny.py --cfg-options data.root=PATH
# The authors' script uses 8 GPUs; they publish no time.
# Expected top-1 / top-5: 76.1 / 93.0, published by the authors (hustvl/Vim README). Not measured here.
_base_ = '../_base_/imagenet_deit.py'
model = dict(name='vim_tiny_patch16_224', drop_path_rate=0.0)
data = dict(batch_size=128)
optim = dict(weight_decay=0.1)
