# UPerNet with local_vmamba_tiny on ADE20K, following LocalMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_local_vmamba_tiny_160k.py
# The authors publish no weights: train the classifier and set model.checkpoint to its file.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='local_vmamba_tiny', checkpoint='local_vmamba_tiny.pth', drop_path_rate=0.1, feature_norm=True)
