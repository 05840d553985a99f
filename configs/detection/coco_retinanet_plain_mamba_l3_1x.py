# RetinaNet with plain_mamba_l3 on COCO, 1x, following PlainMamba's configuration: gradients clipped at a norm of 35,
# synchronised batch norms, a warm-up of 500 steps.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_retinanet_plain_mamba_l3_1x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Difference: the authors use a ViT-Adapter and an FPN with batch norms. Here, ViTDet's simple feature pyramid
# (arXiv:2203.16527) with LayerNorms builds the levels from the last map, which like theirs has no norm.
_base_ = '../_base_/coco_1x.py'
model = dict(name='plain_mamba_l3', pretrained=True, drop_path_rate=0.3)
task = dict(head='retinanet', norm='sync')
optim = dict(clip_grad=35.0)
schedule = dict(warmup_epochs=0.0682)
