# Classifies a class token in the middle of the patches, as the published Vim does.
# python tools/train.py configs/classification/digits_vim_nano_token_middle.py
_base_ = 'digits_vim_nano.py'
model = dict(class_token='middle', global_pool='token')
