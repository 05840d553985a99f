# Mask R-CNN with vmamba_tiny_s1l8 on COCO, 3x, following VMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_vmamba_tiny_s1l8_3x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/coco_3x.py'
model = dict(name='vmamba_tiny_s1l8', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
