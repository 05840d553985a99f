# COCO for 36 epochs, "3x": as 1x, with a short side of 480 to 800 in steps of 32, half of the images first cropped as
# DETR's (arXiv:2005.12872), a tenth of the learning rate after 27 and after 33 epochs.
_base_ = 'coco_1x.py'
task = dict(min_size=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800))
augment = dict(crop_first=0.5)
schedule = dict(epochs=36, milestones=(27, 33))
