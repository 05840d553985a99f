# UPerNet with mambavision_tiny on ADE20K, as MambaVision's authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_mambavision_tiny_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Their weights are not for commercial use.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='mambavision_tiny', pretrained=True, drop_path_rate=0.3, feature_norm=True, window_size=(64, 32))
optim = dict(lr=5e-5)
