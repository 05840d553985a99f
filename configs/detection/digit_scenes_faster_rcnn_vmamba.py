# Faster R-CNN on digit scenes: 3 to 8 real handwritten digits on a canvas. No download.
# python tools/train.py configs/detection/digit_scenes_faster_rcnn_vmamba.py
_base_ = '../_base_/digit_scenes.py'
task = dict(
    name='detection',
    head='faster_rcnn',
    min_size=128,
    max_size=128,
    channels=64,
    hidden=256,
    anchor_scale=6,
    anchor_ratios=(1.0, 1.6),
    proposals=300,
    samples=64,
)
