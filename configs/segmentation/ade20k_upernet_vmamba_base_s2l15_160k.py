# UPerNet with vmamba_base_s2l15 on ADE20K, following VMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_vmamba_base_s2l15_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='vmamba_base_s2l15', pretrained=True, drop_path_rate=0.6, feature_norm=True)
