# ADE20K for 160,000 steps of 16 images (127 epochs), by Swin's configuration of UPerNet (arXiv:2103.14030), which
# VMamba's and others inherit: AdamW 6e-5, linear to 0, warm-up of 1,500 steps from a millionth, crops of 512 with at
# most three quarters of one class, scales 0.5 to 2, a second head at stride 16 with weight 0.4, batch norms over all
# processes, evaluation of whole images of short side 512, float32.
# Different here, in every recipe: the decoder is that of segmentation-models-pytorch, which gives each map a LayerNorm
# first; a jitter of colours for mmsegmentation's distortion; 'sync' reaches the batch norms of a backbone too, if it
# has any, and not those of the heads alone; the loss is the mean over the pixels that have a class, where
# mmsegmentation's is over all of them; and weight decay leaves out every vector, A_log, D and positions (not the
# dt_bias of VMamba and EfficientVMamba, which has a row for each route), where Swin's leaves out the norms alone.
# data.root: ADEChallengeData2016, a folder with images/ and annotations/.
task = dict(name='segmentation', head='upernet', channels=512, auxiliary=0.4, norm='sync', resize=(512, 2048))
data = dict(name='ade20k', root='data/ADEChallengeData2016', batch_size=2, eval_batch_size=1, workers=4)
augment = dict(
    style='dense', resize=(512, 2048), scale=(0.5, 2.0), crop=(512, 512), max_class_share=0.75, color_jitter=0.3
)
optim = dict(name='adamw', lr=6e-5, lr_batch=16, weight_decay=0.01)
schedule = dict(name='linear', epochs=127, warmup_epochs=1.19, warmup_lr=6e-11, min_lr=0.0)
run = dict(val_interval=13, checkpoint_interval=2000)
