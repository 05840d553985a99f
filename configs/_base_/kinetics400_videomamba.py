# The recipe with which VideoMamba was trained on Kinetics-400, from weights of images that are inflated to clips.
# lr is for 128 videos, of which each step takes two clips (repeated augmentation); warmup_lr and min_lr are what the
# authors' 1e-6 comes to at the batch of 512.
# Different here: RandAugment follows the crop, and turns frames with the crop's bilinear filter instead of a bicubic
# one; frames are resized with antialiasing; what is erased is the same noise in all frames of a clip; of 4 views in
# time, one starts at 1/8 of a part instead of 1/5, the others evenly behind it; A of the scans does not decay; and all
# layers learn at one rate, whereas in the authors' script that of the patches, the class token and the positions in a
# frame is 0.75^(layers + 1) of it, by what they call a bug of their layer decay.
# data.root: train.csv and val.csv, of lines `path,class`; data.videos: the folder that the paths start in.
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
