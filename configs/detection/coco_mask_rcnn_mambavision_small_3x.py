# Mask R-CNN with mambavision_small on COCO, 3x.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_mambavision_small_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors train Cascade Mask R-CNN with this backbone, windows and schedule.
# Their weights are not for commercial use.
_base_ = '../_base_/coco_3x.py'
model = dict(name='mambavision_small', pretrained=True, drop_path_rate=0.3, feature_norm=True, window_size=(112, 56))
task = dict(head='mask_rcnn')
