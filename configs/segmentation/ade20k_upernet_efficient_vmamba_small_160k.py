# UPerNet with efficient_vmamba_small on ADE20K. Our recipe: VMamba's with the drop path rate of EfficientVMamba's
# detectors, whose authors publish no segmentation recipe.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_efficient_vmamba_small_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='efficient_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
