# No class token: the mean over the patches.
# python tools/train.py configs/classification/digits_vim_nano_token_none.py
_base_ = 'digits_vim_nano.py'
model = dict(class_token='none', global_pool='avg')
