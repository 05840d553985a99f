# UPerNet with Vim-Ti on ADE20K for 60,000 steps of 32 images, as its authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_vim_tiny_60k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors leave the class token out; here it stays, as it was trained, and the maps do not have it.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='vim_tiny_patch16_224', pretrained=True, img_size=512)
task = dict(channels=192, out_indices=(5, 11, 17, 23), window=(512, 512), stride=(341, 341))
data = dict(batch_size=4)
optim = dict(lr=2e-4, lr_batch=32, weight_decay=0.1, layer_decay=0.92)
schedule = dict(epochs=95, warmup_epochs=2.38, warmup_lr=2e-10)
