# Mask R-CNN with efficient_vmamba_base on COCO, 1x, as EfficientVMamba's authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_efficient_vmamba_base_1x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/coco_1x.py'
model = dict(name='efficient_vmamba_base', pretrained=True, drop_path_rate=0.2)
task = dict(head='mask_rcnn')
