# Mask R-CNN with vim_tiny_patch16_224 on COCO for 100 epochs of 64 images, following Vim's configuration, which is
# ViTDet's (arXiv:2203.16527): AdamW 1e-4 with weight decay 0.1 and layer decay 0.837, learning rate divided by 10 after
# 88.9 and 96.3 epochs, images of 1,024 x 1,024 scaled by 0.1 to 2, a simple feature pyramid on the last map, two
# convolutions in the RPN, four in the box head, LayerNorms in both heads.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_vim_tiny_100ep.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Differences: the authors train Cascade Mask R-CNN, with three such box heads in sequence. Their weights have rotary
# positions and no class token, and are not published; here, the class token of the published weights is kept and left
# out of the maps. A box cut by a crop is clipped; ViTDet's jitter redraws it around the mask.
# Trains in bf16; the authors' configuration uses fp16.
_base_ = '../_base_/coco_1x.py'
model = dict(name='vim_tiny_patch16_224', pretrained=True, img_size=1024, dynamic_img_size=False, drop_path_rate=0.1)
task = dict(
    head='mask_rcnn', min_size=1024, max_size=1024, rpn_convs=2, box_convs=4, box_norm='layer', mask_norm='layer'
)
data = dict(batch_size=8)
augment = dict(resize=(1024, 1024), scale=(0.1, 2.0), crop=(1024, 1024))
optim = dict(lr_batch=64, weight_decay=0.1, layer_decay=0.837)
schedule = dict(epochs=100, milestones=(88.9, 96.3))
run = dict(amp='bf16')
