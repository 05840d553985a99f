# Along the Hilbert curve, there and back.
# python tools/train.py configs/classification/digits_vim_nano_hilbert.py
_base_ = 'digits_vim_nano.py'
model = dict(scan='hilbert_bidirectional')
