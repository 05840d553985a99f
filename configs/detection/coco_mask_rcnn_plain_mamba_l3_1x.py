# Mask R-CNN with plain_mamba_l3 on COCO, 1x.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_plain_mamba_l3_1x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors put a ViT-Adapter around the backbone; here it is a simple feature pyramid.
_base_ = '../_base_/coco_1x.py'
model = dict(name='plain_mamba_l3', pretrained=True, drop_path_rate=0.3)
task = dict(head='mask_rcnn', norm='sync')
