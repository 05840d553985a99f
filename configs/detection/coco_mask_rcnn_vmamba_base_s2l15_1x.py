# Mask R-CNN with vmamba_base_s2l15 on COCO, 1x, following VMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_vmamba_base_s2l15_1x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
_base_ = '../_base_/coco_1x.py'
model = dict(name='vmamba_base_s2l15', pretrained=True, drop_path_rate=0.6, feature_norm=True)
task = dict(head='mask_rcnn')
