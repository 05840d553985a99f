# UPerNet with mambavision_tiny on ADE20K, by MambaVision's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_mambavision_tiny_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Eight processes of 2 images, where the authors have sixteen of 1.
# In bf16, where the authors' configuration has fp16.
# The weights are not for commercial use.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='mambavision_tiny', pretrained=True, drop_path_rate=0.3, feature_norm=True, window_size=(64, 32))
optim = dict(lr=5e-5)
schedule = dict(warmup_lr=5e-11)
run = dict(amp='bf16')
