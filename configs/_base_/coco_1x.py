# COCO for 12 epochs, "1x", following Swin's Mask R-CNN configuration (arXiv:2103.14030), which VMamba and others
# inherit: 16 images per step, images without objects left out, AdamW 1e-4, divided by 10 after 8 and after 11 epochs,
# warm-up of 1,000 steps from a thousandth, short side 800 and long side at most 1,333, mirrored with probability 0.5,
# float32.
# Differences in all recipes: the detectors are those of torchvision. Its Mask R-CNN has smooth L1 box losses (beta
# 1/9), 2,000 proposals in training and 2 x 2 samples per bin of RoIAlign; mmdetection's has L1, 1,000, and as many
# samples as a bin has pixels. Batches are not grouped by orientation. Weight decay skips every vector, A_log, D and
# positions (except the dt_bias of VMamba and EfficientVMamba, which has a row per route); Swin's skips only the
# norms.
# data.root: a folder with train2017/, val2017/ and annotations/instances_{train,val}2017.json.
task = dict(name='detection', min_size=800, max_size=1333)
data = dict(name='coco', root='data/coco', batch_size=2, workers=4, keep_empty=False)
augment = dict(style='dense')
optim = dict(name='adamw', lr=1e-4, lr_batch=16, weight_decay=0.05)
schedule = dict(name='step', epochs=12, milestones=(8, 11), warmup_epochs=0.136, warmup_lr=1e-7)
run = dict(val_interval=1, checkpoint_interval=2000)
