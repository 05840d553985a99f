# mamba_nd_3d_small on Kinetics-400, clips of 16 frames: 50 epochs, 64 videos per step.
# torchrun --nproc-per-node 8 tools/train.py configs/video/kinetics400_mamba_nd_3d_small_f16.py
# python tools/test.py runs/NAME/config.json runs/NAME/best.pth --cfg-options data.num_clips=4 data.num_crops=3
# The authors' script has 8 videos on each GPU, of which it does not say the number; they publish no time. The weights
# of images are fetched; from a file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Expected top-1: 81.9, published by the authors (jacklishufan/Mamba-ND, readme); not measured here.
# Theirs is VideoMamba's script, and so is this; they start from a file of images of their own, which may be another.
_base_ = '../_base_/kinetics400_videomamba.py'
model = dict(name='mamba_nd_3d_small.jacklishufan_in1k', pretrained=True, drop_path_rate=0.35)
data = dict(batch_size=8, eval_batch_size=4)
optim = dict(lr=4e-4)
schedule = dict(warmup_lr=5e-7, min_lr=5e-7)
