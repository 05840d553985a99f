# Mask R-CNN with efficient_vmamba_base on COCO, 3x, following EfficientVMamba's configuration.
# Four processes of 4 images.
# torchrun --nproc-per-node 4 tools/train.py configs/detection/coco_mask_rcnn_efficient_vmamba_base_3x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Trains in bf16; the authors' configuration uses fp16.
# The drop path rate is Swin-T's, which their configuration inherits. Batch norms of the backbone are per process.
_base_ = '../_base_/coco_3x.py'
model = dict(name='efficient_vmamba_base', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
data = dict(batch_size=4)
run = dict(amp='bf16')
