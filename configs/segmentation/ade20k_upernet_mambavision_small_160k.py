# UPerNet with mambavision_small on ADE20K, following MambaVision's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_mambavision_small_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Trains in bf16; the authors' configuration uses fp16.
# The weights are not for commercial use.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='mambavision_small', pretrained=True, drop_path_rate=0.7, feature_norm=True, window_size=(160, 56))
run = dict(amp='bf16')
