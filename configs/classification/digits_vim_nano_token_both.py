# Classifies the mean of two class tokens, before and after the patches (Vim's double class token).
# python tools/train.py configs/classification/digits_vim_nano_token_both.py
_base_ = 'digits_vim_nano.py'
model = dict(class_token='both', global_pool='token')
