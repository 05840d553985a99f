# Mask R-CNN with mambavision_small on COCO, 3x, with the backbone, windows, schedule and box head of
# MambaVision's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_mambavision_small_3x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Difference: the authors train Cascade Mask R-CNN, with three such box heads in sequence and a GIoU loss. They
# synchronise only the batch norms of the box heads; here, those of the backbone are synchronised, too.
# Trains in bf16; the authors' configuration uses fp16.
# The weights are not for commercial use.
_base_ = '../_base_/coco_3x.py'
model = dict(name='mambavision_small', pretrained=True, drop_path_rate=0.3, feature_norm=True, window_size=(112, 56))
task = dict(head='mask_rcnn', norm='sync', box_convs=4, box_norm='batch')
run = dict(amp='bf16')
