# UPerNet with local_vmamba_small on ADE20K, by LocalMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_local_vmamba_small_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# In bf16, where the authors' configuration has fp16.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='local_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
run = dict(amp='bf16')
