# Mask R-CNN with efficient_vmamba_small on COCO, 1x, by EfficientVMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_efficient_vmamba_small_1x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# In bf16, where the authors' configuration has fp16.
# The drop path rate is Swin-T's, which their configuration inherits and does not change; the batch norms of the
# backbone are each process's.
# Their configuration says 96 channels in the first stage, of which their weights have 64; here there are 64.
_base_ = '../_base_/coco_1x.py'
model = dict(name='efficient_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
run = dict(amp='bf16')
