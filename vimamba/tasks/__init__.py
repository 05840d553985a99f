"""Tasks: a backbone with its head, loss and metric."""

from .classification import ClassificationMetric, ClassificationTask, build_model

__all__ = ['ClassificationMetric', 'ClassificationTask', 'build_model']
