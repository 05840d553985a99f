# Mask R-CNN with plain_mamba_l1 on COCO, 1x, by PlainMamba's configuration: four convolutions with batch norms over all
# processes in the box head, a warm-up of 500 steps, and images without objects too.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_plain_mamba_l1_1x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Different: the authors put a ViT-Adapter around the backbone and an FPN with batch norms behind it. Here ViTDet's
# simple feature pyramid (arXiv:2203.16527), with LayerNorms, makes the levels of the last map, which like theirs has no
# norm.
_base_ = '../_base_/coco_1x.py'
model = dict(name='plain_mamba_l1', pretrained=True, drop_path_rate=0.1)
task = dict(head='mask_rcnn', norm='sync', box_convs=4, box_norm='batch')
data = dict(keep_empty=True)
schedule = dict(warmup_epochs=0.0676)
