# UPerNet with vmamba_tiny_s1l8 on ADE20K, following VMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_vmamba_tiny_s1l8_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='vmamba_tiny_s1l8', pretrained=True, drop_path_rate=0.2, feature_norm=True)
