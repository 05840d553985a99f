# videomamba_tiny_patch16_224_f16 on Kinetics-400: 70 epochs, 512 videos per step.
# torchrun --nproc-per-node 8 tools/train.py configs/video/kinetics400_videomamba_tiny_f16.py
# python tools/test.py runs/NAME/config.json runs/NAME/best.pth --cfg-options data.num_clips=4 data.num_crops=3
# The authors' script uses 8 GPUs; they publish no time. Downloads the image weights. To use a file:
# --cfg-options model.pretrained=False model.checkpoint=FILE
# Expected top-1 of 4 clips x 3 crops: 78.1, published by the authors (OpenGVLab/VideoMamba, MODEL_ZOO). Not
# measured here.
_base_ = '../_base_/kinetics400_videomamba.py'
model = dict(name='videomamba_tiny_patch16_224_f16.opengvlab_in1k', pretrained=True, drop_path_rate=0.1)
data = dict(batch_size=64, eval_batch_size=4)
augment = dict(auto_augment='rand-m5-n2-mstd0.25-inc1')
optim = dict(weight_decay=0.1)
schedule = dict(epochs=70)
