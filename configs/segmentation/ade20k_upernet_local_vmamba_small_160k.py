# UPerNet with local_vmamba_small on ADE20K, following LocalMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_local_vmamba_small_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Trains in bf16; the authors' configuration uses fp16.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='local_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
run = dict(amp='bf16')
