# Classifies the mean of the patches, without a class token.
# python tools/train.py configs/classification/digits_vim_nano_token_none.py
_base_ = 'digits_vim_nano.py'
model = dict(class_token='none', global_pool='avg')
