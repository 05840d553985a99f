# Faster R-CNN on digit scenes with a flat Vim: its maps have stride 8; a simple feature pyramid makes four of the last.
# python tools/train.py configs/detection/digit_scenes_faster_rcnn_vim.py
_base_ = 'digit_scenes_faster_rcnn_vmamba.py'
model = dict(
    _delete_=True, name='vim_tiny_patch16_224', img_size=128, patch_size=8, embed_dim=96, depth=6, class_token='none'
)
