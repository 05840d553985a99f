# Mask R-CNN with local_vmamba_small on COCO, 3x, as LocalMamba's authors train it.
# torchrun --nproc-per-node 8 tools/train.py configs/detection/coco_mask_rcnn_local_vmamba_small_3x.py
# The weights are fetched; from an official file: --cfg-options model.pretrained=False model.checkpoint=FILE
# The authors give no drop path rate for detection; this is the one of their segmentation.
_base_ = '../_base_/coco_3x.py'
model = dict(name='local_vmamba_small', pretrained=True, drop_path_rate=0.2, feature_norm=True)
task = dict(head='mask_rcnn')
