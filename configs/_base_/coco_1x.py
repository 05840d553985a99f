# COCO for 12 epochs, as Swin's Mask R-CNN "1x" (arXiv:2103.14030) and after it VMamba's and others':
# 16 images a step, AdamW 1e-4, steps after 8 and 11 epochs, warm-up of 1,000 steps, short side 800 and long side 1,333.
# data.root: a folder with train2017/, val2017/ and annotations/instances_{train,val}2017.json.
task = dict(name='detection', min_size=800, max_size=1333)
data = dict(name='coco', root='data/coco', batch_size=2, workers=4, keep_empty=False)
augment = dict(style='dense')
optim = dict(name='adamw', lr=1e-4, lr_batch=16, weight_decay=0.05)
schedule = dict(name='step', epochs=12, milestones=(8, 11), warmup_epochs=0.136, warmup_lr=1e-7)
run = dict(amp='bf16', val_interval=1, checkpoint_interval=2000)
