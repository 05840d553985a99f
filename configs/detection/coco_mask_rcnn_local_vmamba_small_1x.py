# Mask R-CNN with local_vmamba_small on COCO, 1x, following LocalMamba's configuration.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_local_vmamba_small_1x.py
# Downloads the weights. To use an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# Trains in bf16; the authors' configuration uses fp16.
# The drop path rate is Swin-T's, which their configuration inherits.
_base_ = '../_base_/coco_1x.py'
model = dict(name='local_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
run = dict(amp='bf16')
