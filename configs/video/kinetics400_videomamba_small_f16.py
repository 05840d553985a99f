# videomamba_small_patch16_224_f16 on Kinetics-400: 50 epochs, 512 videos per step.
# torchrun --nnodes 2 --nproc-per-node 8 tools/train.py configs/video/kinetics400_videomamba_small_f16.py
# python tools/test.py runs/NAME/config.json runs/NAME/best.pth --cfg-options data.num_clips=4 data.num_crops=3
# The authors' script uses 16 GPUs; they publish no time. Downloads the image weights. To use a file:
# --cfg-options model.pretrained=False model.checkpoint=FILE
# Expected top-1 of 4 clips x 3 crops: 80.8, published by the authors (OpenGVLab/VideoMamba, MODEL_ZOO). Not
# measured here.
_base_ = '../_base_/kinetics400_videomamba.py'
model = dict(name='videomamba_small_patch16_224_f16.opengvlab_in1k', pretrained=True, drop_path_rate=0.35)
data = dict(batch_size=32, eval_batch_size=4)
