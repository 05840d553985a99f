# Mask R-CNN with Vim-Ti on COCO, 3x, with the layer decay of its authors.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_vim_tiny_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors train Cascade Mask R-CNN for 100 epochs with large-scale jitter, as ViTDet.
# The authors leave the class token out; here it stays, as it was trained, and the maps do not have it.
_base_ = '../_base_/coco_3x.py'
model = dict(name='vim_tiny_patch16_224', pretrained=True)
task = dict(head='mask_rcnn')
optim = dict(layer_decay=0.837)
