# Mask R-CNN with efficient_vmamba_base on COCO, 3x, by EfficientVMamba's configuration: four processes of 4 images.
# torchrun --nproc-per-node 4 tools/train.py configs/detection/coco_mask_rcnn_efficient_vmamba_base_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# In bf16, where the authors' configuration has fp16.
# The drop path rate is Swin-T's, which their configuration inherits and does not change; the batch norms of the
# backbone are each process's.
_base_ = '../_base_/coco_3x.py'
model = dict(name='efficient_vmamba_base', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
data = dict(batch_size=4)
run = dict(amp='bf16')
