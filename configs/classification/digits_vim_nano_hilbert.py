# The Hilbert curve in both directions.
# python tools/train.py configs/classification/digits_vim_nano_hilbert.py
_base_ = 'digits_vim_nano.py'
model = dict(scan='hilbert_bidirectional')
