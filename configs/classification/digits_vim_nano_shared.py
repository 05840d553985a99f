# Both directions share one set of weights (Vim's bimamba v1).
# python tools/train.py configs/classification/digits_vim_nano_shared.py
_base_ = 'digits_vim_nano.py'
model = dict(share_routes=True)
