# UPerNet with plain_mamba_l3 on ADE20K, as PlainMamba's authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_plain_mamba_l3_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors give UPerNet four maps of stride 16; here a pyramid is made of them.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='plain_mamba_l3', pretrained=True, drop_path_rate=0.3)
task = dict(out_indices=(8, 17, 26, 35))
