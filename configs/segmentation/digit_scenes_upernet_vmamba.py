# UPerNet on digit scenes: ten digits and the background. No download.
# python tools/train.py configs/segmentation/digit_scenes_upernet_vmamba.py
_base_ = '../_base_/digit_scenes.py'
task = dict(name='segmentation', head='upernet', channels=64, dice=1.0)
optim = dict(lr=2e-3)
schedule = dict(epochs=6)
