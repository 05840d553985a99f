# RetinaNet with plain_mamba_l2 on COCO, 1x, by PlainMamba's configuration: gradients clipped at a norm of 35, batch
# norms over all processes, a warm-up of 500 steps.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_retinanet_plain_mamba_l2_1x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Different: the authors put a ViT-Adapter around the backbone and an FPN with batch norms behind it. Here ViTDet's
# simple feature pyramid (arXiv:2203.16527), with LayerNorms, makes the levels of the last map, which like theirs has no
# norm.
_base_ = '../_base_/coco_1x.py'
model = dict(name='plain_mamba_l2', pretrained=True, drop_path_rate=0.2)
task = dict(head='retinanet', norm='sync')
optim = dict(clip_grad=35.0)
schedule = dict(warmup_epochs=0.0682)
