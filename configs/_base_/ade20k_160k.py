# ADE20K for 160,000 steps of 16 images (127 epochs), following Swin's UPerNet configuration (arXiv:2103.14030), which
# VMamba and others inherit: AdamW 6e-5 with linear decay to 0, warm-up of 1,500 steps from a millionth, crops of 512
# with at most three quarters of one class, scales 0.5 to 2, an auxiliary head at stride 16 with weight 0.4,
# synchronised batch norms, evaluation of whole images with short side 512, float32.
# Differences in all recipes: the decoder is that of segmentation-models-pytorch, which applies a LayerNorm to each
# map first. Colour jitter replaces mmsegmentation's photometric distortion. 'sync' also synchronises batch norms of
# the backbone, if it has any, not only those of the heads. The loss is the mean over labelled pixels;
# mmsegmentation's is over all. Weight decay skips every vector, A_log, D and positions (except the dt_bias of VMamba
# and EfficientVMamba, which has a row per route); Swin's skips only the norms.
# data.root: ADEChallengeData2016, a folder with images/ and annotations/.
task = dict(name='segmentation', head='upernet', channels=512, auxiliary=0.4, norm='sync', resize=(512, 2048))
data = dict(name='ade20k', root='data/ADEChallengeData2016', batch_size=2, eval_batch_size=1, workers=4)
augment = dict(
    style='dense', resize=(512, 2048), scale=(0.5, 2.0), crop=(512, 512), max_class_share=0.75, color_jitter=0.3
)
optim = dict(name='adamw', lr=6e-5, lr_batch=16, weight_decay=0.01)
schedule = dict(name='linear', epochs=127, warmup_epochs=1.19, warmup_lr=6e-11, min_lr=0.0)
run = dict(val_interval=13, checkpoint_interval=2000)
