# videomamba_middle_patch16_224_f16 on Something-Something v2: 30 epochs, 256 videos per step.
# torchrun --nnodes 2 --nproc-per-node 8 tools/train.py configs/video/something_v2_videomamba_middle_f16.py
# python tools/test.py runs/NAME/config.json runs/NAME/best.pth --cfg-options data.num_clips=2 data.num_crops=3
# The authors' script uses 16 GPUs; they publish no time. Downloads the image weights. To use a file:
# --cfg-options model.pretrained=False model.checkpoint=FILE
# Expected top-1 of 2 clips x 3 crops: 68.3, published by the authors (OpenGVLab/VideoMamba, MODEL_ZOO, where the
# table says 4 clips and the script 2). Not measured here.
_base_ = '../_base_/something_v2_videomamba.py'
model = dict(name='videomamba_middle_patch16_224_f16.opengvlab_in1k', pretrained=True, drop_path_rate=0.8)
data = dict(batch_size=16, eval_batch_size=4)
schedule = dict(warmup_lr=2e-6, min_lr=2e-6)
