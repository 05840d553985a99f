# UPerNet with local_vim_tiny on ADE20K, following LocalMamba's configuration: LayerNorms instead of RMS norms; the
# outputs of four blocks, before the residual sum and with a LayerNorm each, all at stride 16 and without a neck; the
# auxiliary head on the last.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_local_vim_tiny_160k.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Evaluation uses windows of 512, the size for which the routes are built. The authors rebuild them for each image and
# evaluate it whole.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='local_vim_tiny', pretrained=True, img_size=512, drop_path_rate=0.1, norm='layer', feature_norm=True)
task = dict(out_indices=(4, 9, 14, 19), pyramid=False, auxiliary_level=3, window=(512, 512), stride=(341, 341))
