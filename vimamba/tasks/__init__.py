"""Tasks: a backbone with its head, loss and metric."""

from .build import build_model
from .classification import ClassificationMetric, ClassificationTask
from .dense import DenseTask
from .detection import DetectionTask
from .segmentation import SegmentationTask
from .video import VideoTask

__all__ = [
    'TASKS',
    'ClassificationMetric',
    'ClassificationTask',
    'DenseTask',
    'DetectionTask',
    'SegmentationTask',
    'VideoTask',
    'build_model',
]

TASKS = {
    'classification': ClassificationTask,
    'detection': DetectionTask,
    'segmentation': SegmentationTask,
    'video': VideoTask,
}
