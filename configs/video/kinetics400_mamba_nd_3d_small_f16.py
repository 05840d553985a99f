# mamba_nd_3d_small on Kinetics-400, clips of 16 frames: 50 epochs, 64 videos per step.
# torchrun --nproc-per-node 8 tools/train.py configs/video/kinetics400_mamba_nd_3d_small_f16.py
# python tools/test.py runs/NAME/config.json runs/NAME/best.pth --cfg-options data.num_clips=4 data.num_crops=3
# The authors' script has 8 videos per GPU, without the number of GPUs; they publish no time. Downloads the image
# weights. To use a file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Expected top-1: 81.9, published by the authors (jacklishufan/Mamba-ND, readme). Not measured here.
# The authors use VideoMamba's script, as this recipe does. They start from their own image weights, which may differ.
_base_ = '../_base_/kinetics400_videomamba.py'
model = dict(name='mamba_nd_3d_small.jacklishufan_in1k', pretrained=True, drop_path_rate=0.35)
data = dict(batch_size=8, eval_batch_size=4)
optim = dict(lr=4e-4)
schedule = dict(warmup_lr=5e-7, min_lr=5e-7)
