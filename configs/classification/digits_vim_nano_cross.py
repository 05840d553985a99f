# Four routes: rows and columns in both directions, as in VMamba.
# python tools/train.py configs/classification/digits_vim_nano_cross.py
_base_ = 'digits_vim_nano.py'
model = dict(scan='cross')
