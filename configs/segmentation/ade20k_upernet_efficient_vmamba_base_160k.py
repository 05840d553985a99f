# UPerNet with efficient_vmamba_base on ADE20K, in the recipe of the other pyramids.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_efficient_vmamba_base_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='efficient_vmamba_base', pretrained=True, drop_path_rate=0.2)
