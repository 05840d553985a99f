# A learned scale for the output of each block.
# python tools/train.py configs/classification/digits_vim_nano_layer_scale.py
_base_ = 'digits_vim_nano.py'
model = dict(layer_scale=1e-2)
