# UPerNet with LocalVim-Ti on ADE20K, as LocalMamba's authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/segmentation/ade20k_upernet_local_vim_tiny_160k.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Images of other sizes go through in windows of 512.
_base_ = '../_base_/ade20k_160k.py'
model = dict(name='local_vim_tiny', pretrained=True, img_size=512, drop_path_rate=0.1)
task = dict(out_indices=(4, 9, 14, 19), window=(512, 512), stride=(341, 341))
