# Mask R-CNN with mambavision_base on COCO, 3x, with the backbone, the windows, the schedule and the box head of
# MambaVision's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_mambavision_base_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Different: the authors train Cascade Mask R-CNN, three such box heads after another, with a GIoU loss; their batch
# norms are over all processes in the box heads alone, here in the backbone too.
# In bf16, where the authors' configuration has fp16.
# The weights are not for commercial use.
_base_ = '../_base_/coco_3x.py'
model = dict(name='mambavision_base', pretrained=True, drop_path_rate=0.5, feature_norm=True, window_size=(112, 56))
task = dict(head='mask_rcnn', norm='sync', box_convs=4, box_norm='batch')
optim = dict(lr=2e-4)
schedule = dict(warmup_lr=2e-7)
run = dict(amp='bf16')
