# UPerNet with vim_tiny_patch16_224 on ADE20K for 60,000 steps of 32 images (95 epochs), following Vim's
# configuration and script: AdamW 2e-4 with weight decay 0.1; the outputs of blocks 5, 11, 17 and 23 before the residual
# sum, resampled to four strides in the backbone (feature_pyramid); windows of 512 every 341 pixels.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_vim_tiny_60k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Differences: the authors remove the class token; here it is kept, as it was trained, and left out of the maps. Their
# layer decay of 0.92 looks for blocks under another name, so it affects only the patches and positions; here there is
# none. They use four processes of 8 images.
_base_ = '../_base_/ade20k_160k.py'
model = dict(
    name='vim_tiny_patch16_224', pretrained=True, img_size=512, drop_path_rate=0.1, feature_pyramid=(5, 11, 17, 23)
)
task = dict(channels=192, window=(512, 512), stride=(341, 341))
data = dict(batch_size=4)
optim = dict(lr=2e-4, lr_batch=32, weight_decay=0.1)
schedule = dict(epochs=95, warmup_epochs=2.38, warmup_lr=2e-10)
