# Faster R-CNN on digit scenes with an isotropic Vim. A simple feature pyramid makes four levels of
# its last map, of stride 8.
# python tools/train.py configs/detection/digit_scenes_faster_rcnn_vim.py
_base_ = 'digit_scenes_faster_rcnn_vmamba.py'
model = dict(
    _delete_=True, name='vim_tiny_patch16_224', img_size=128, patch_size=8, embed_dim=96, depth=6, class_token='none'
)
