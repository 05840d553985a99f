# Mask R-CNN with mambavision_tiny on COCO, 3x.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_mambavision_tiny_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors train Cascade Mask R-CNN with this backbone, windows and schedule.
# Their weights are not for commercial use.
_base_ = '../_base_/coco_3x.py'
model = dict(name='mambavision_tiny', pretrained=True, drop_path_rate=0.2, feature_norm=True, window_size=(112, 56))
task = dict(head='mask_rcnn')
