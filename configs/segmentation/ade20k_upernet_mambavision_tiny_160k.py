# UPerNet with mambavision_tiny on ADE20K, following MambaVision's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_mambavision_tiny_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Eight processes of 2 images; the authors use sixteen of 1.
# Trains in bf16; the authors' configuration uses fp16.
# The weights are not for commercial use.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='mambavision_tiny', pretrained=True, drop_path_rate=0.3, feature_norm=True, window_size=(64, 32))
optim = dict(lr=5e-5)
schedule = dict(warmup_lr=5e-11)
run = dict(amp='bf16')
