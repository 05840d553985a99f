# UPerNet with plain_mamba_l2 on ADE20K, following PlainMamba's configuration: the maps of four blocks with a norm
# each (for the last, the final norm), all at stride 16 and without a neck; the auxiliary head on the last.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_plain_mamba_l2_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Evaluation pads images to multiples of 32; the authors stretch them.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='plain_mamba_l2', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(out_indices=(5, 11, 17, 23), pyramid=False, auxiliary_level=3)
