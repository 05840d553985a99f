# ADE20K for 160,000 steps of 16 images (127 epochs), as Swin's UPerNet (arXiv:2103.14030) and after it
# others': AdamW 6e-5, linear to 0, warm-up of 1,500 steps, crops of 512, scales 0.5 to 2, a second head at stride 16.
# Colours: a plain jitter instead of mmsegmentation's distortion.
# data.root: ADEChallengeData2016, a folder with images/ and annotations/.
task = dict(name='segmentation', head='upernet', channels=512, auxiliary=0.4, norm='sync', resize=(512, 2048))
data = dict(name='ade20k', root='data/ADEChallengeData2016', batch_size=2, eval_batch_size=1, workers=4)
augment = dict(
    style='dense', resize=(512, 2048), scale=(0.5, 2.0), crop=(512, 512), max_class_share=0.75, color_jitter=0.3
)
optim = dict(name='adamw', lr=6e-5, lr_batch=16, weight_decay=0.01)
schedule = dict(name='linear', epochs=127, warmup_epochs=1.19, warmup_lr=6e-11, min_lr=0.0)
run = dict(amp='bf16', val_interval=13, checkpoint_interval=2000)
