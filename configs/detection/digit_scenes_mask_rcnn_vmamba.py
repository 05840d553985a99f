# Mask R-CNN on digit scenes: 3 to 8 real handwritten digits on a canvas. No download.
# python tools/train.py configs/detection/digit_scenes_mask_rcnn_vmamba.py
_base_ = 'digit_scenes_faster_rcnn_vmamba.py'
task = dict(head='mask_rcnn', mask_channels=64)
schedule = dict(epochs=3, warmup_epochs=0.3)
