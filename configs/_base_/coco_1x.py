# COCO for 12 epochs, "1x", by Swin's configuration of Mask R-CNN (arXiv:2103.14030), which VMamba's and others inherit:
# 16 images a step, those without objects left out, AdamW 1e-4, a tenth of it after 8 and after 11 epochs, warm-up of
# 1,000 steps from a thousandth, short side 800 and long side at most 1,333, mirrored half of the time, float32.
# Different here, in every recipe: the detectors are torchvision's, whose Mask R-CNN has smooth L1 losses of boxes (beta
# 1/9), 2,000 proposals in training and 2 x 2 samples to a bin of RoIAlign, where mmdetection's has L1, 1,000, and as
# many samples as a bin has pixels; images of a batch are not chosen to be all upright or all wide; and weight decay
# leaves out every vector, A_log, D and positions (not the dt_bias of VMamba and EfficientVMamba, which has a row for
# each route), where Swin's leaves out the norms alone.
# data.root: a folder with train2017/, val2017/ and annotations/instances_{train,val}2017.json.
task = dict(name='detection', min_size=800, max_size=1333)
data = dict(name='coco', root='data/coco', batch_size=2, workers=4, keep_empty=False)
augment = dict(style='dense')
optim = dict(name='adamw', lr=1e-4, lr_batch=16, weight_decay=0.05)
schedule = dict(name='step', epochs=12, milestones=(8, 11), warmup_epochs=0.136, warmup_lr=1e-7)
run = dict(val_interval=1, checkpoint_interval=2000)
