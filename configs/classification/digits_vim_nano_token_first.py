# Classifies a class token before the patches.
# python tools/train.py configs/classification/digits_vim_nano_token_first.py
_base_ = 'digits_vim_nano.py'
model = dict(class_token='first', global_pool='token')
