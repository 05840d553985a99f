# COCO for 36 epochs, "3x": like 1x, with short sides of 480 to 800 in steps of 32, half of the images cropped first
# as in DETR (arXiv:2005.12872), and the learning rate divided by 10 after 27 and after 33 epochs.
_base_ = 'coco_1x.py'
task = dict(min_size=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800))
augment = dict(crop_first=0.5)
schedule = dict(epochs=36, milestones=(27, 33))
