# The recipe that trained VideoMamba on Kinetics-400, from image weights inflated to clips. lr is for 128 videos per
# step. Each step takes two clips of every video (repeated augmentation). warmup_lr and min_lr equal the authors' 1e-6
# at a batch of 512.
# Differences: RandAugment follows the crop and rotates frames with the crop's bilinear filter instead of a bicubic
# one. Frames are resized with antialiasing. Random erasing uses the same noise in all frames of a clip. The first of
# 4 views in time starts at 1/8 of a segment instead of 1/5, and the others follow evenly. A of the scans has no
# weight decay. All layers have one learning rate; in the authors' script the patches, the class token and the
# positions in a frame get 0.75^(layers + 1) of it, by what they call a bug of their layer decay.
# data.root: train.csv and val.csv with lines `path,class`; data.videos: the folder that the paths are relative to.
task = dict(name='video')
data = dict(name='video_list', root='data/kinetics400', sampling='uniform', repeats=2, workers=12)
augment = dict(
    style='clip',
    scale=(0.08, 1.0),
    hflip=0.5,
    auto_augment='rand-m7-n4-mstd0.5-inc1',
    re_prob=0.25,
    mixup=0.8,
    cutmix=1.0,
    smoothing=0.1,
)
optim = dict(name='adamw', betas=(0.9, 0.999), lr=2e-4, lr_batch=128, weight_decay=0.05)
schedule = dict(epochs=50, warmup_epochs=5, warmup_lr=4e-6, min_lr=4e-6)
run = dict(amp='bf16', checkpoint_interval=500)
