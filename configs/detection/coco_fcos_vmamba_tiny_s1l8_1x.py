# FCOS with vmamba_tiny_s1l8 on COCO. Our recipe: VMamba's Mask R-CNN recipe with another head.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_fcos_vmamba_tiny_s1l8_1x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/coco_1x.py'
model = dict(name='vmamba_tiny_s1l8', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='fcos')
