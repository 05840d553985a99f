"""Data sets, transforms and loaders for images.

>>> from vimamba.data import create_dataset, create_loader, create_transform
>>> transform = create_transform(training=False, input_size=(1, 32, 32), mean=[0.5], std=[0.5], crop_pct=1.0)
>>> loader = create_loader(create_dataset('digits', split='test', transform=transform), 90, training=False, seed=0)
>>> [tuple(images.shape) for images, targets in loader]
[(90, 1, 32, 32), (90, 1, 32, 32), (90, 1, 32, 32)]
"""

from vimamba.data.dense_transforms import AUGMENT_DENSE, DenseTransform
from vimamba.data.factory import DATASETS, create_dataset
from vimamba.data.image import BrokenImage, find_images, read_image
from vimamba.data.loader import EpochSampler, Loader, create_loader, end_workers, lost_worker
from vimamba.data.transforms import AUGMENT, create_transform

__all__ = ['AUGMENT', 'AUGMENT_DENSE', 'DATASETS', 'BrokenImage', 'DenseTransform', 'EpochSampler', 'Loader',
           'create_dataset', 'create_loader', 'create_transform', 'end_workers', 'find_images', 'lost_worker',
           'read_image']  # fmt: skip
