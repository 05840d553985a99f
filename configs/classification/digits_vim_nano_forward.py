# A single, forward route.
# python tools/train.py configs/classification/digits_vim_nano_forward.py
_base_ = 'digits_vim_nano.py'
model = dict(scan='raster')
