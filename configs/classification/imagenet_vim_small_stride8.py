# vim_small_patch16_stride8_224 on ImageNet-1k: 30 epochs from vim_small_patch16_224, 1024 images per step.
# torchrun --nproc-per-node 8 tools/train.py configs/classification/imagenet_vim_small_stride8.py \
#     --cfg-options data.root=PATH model.checkpoint=OFFICIAL_OR_OWN.pth
# Positions are resized from 14x14 to 27x27 around the class token. The authors' script uses 8 GPUs; they publish no
# time. Its learning rate is constant: 5e-6 for 512 images, that is 1e-5 for 1024.
# Expected top-1 / top-5: 81.6 / 95.4, published by the authors (hustvl/Vim README). Not measured here.
_base_ = '../_base_/imagenet_deit.py'
model = dict(name='vim_small_patch16_stride8_224', drop_path_rate=0.0)
data = dict(batch_size=128)
optim = dict(lr=5e-6, weight_decay=1e-8)
schedule = dict(epochs=30, warmup_lr=1e-5)
