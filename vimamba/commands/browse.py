"""Draw what a model is trained on, after its transforms.

vimamba browse CONFIG --out browse.png
"""

from collections.abc import Sequence
from typing import Any

from vimamba.cli import add_import, add_options, create_parser, load_models
from vimamba.errors import bad_argument
from vimamba.outputs import check_output, whole_file

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('browse', __doc__)
    parser.add_argument('config', help='a configuration of training')
    parser.add_argument('--split', default='train', help='part of the data set (default: %(default)s)')
    parser.add_argument('--out', default='browse.png', help='the picture (default: %(default)s)')
    parser.add_argument('--count', type=int, default=16, help='images (default: %(default)s)')
    parser.add_argument('--epoch', type=int, default=0, help='epoch of the augmentation (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='without augmentation')
    add_options(parser, 'augment.hflip=0.5')
    add_import(parser)
    args = parser.parse_args(argv)
    if args.count < 1 or args.epoch < 0:
        raise bad_argument('--count, --epoch', 'at least 1, at least 0', f'{args.count}, {args.epoch}')
    check_output('--out', args.out, picture=True)
    load_models(args.imports)

    from vimamba.data import create_loader
    from vimamba.tasks import load_task
    from vimamba.visualize.samples import picture

    config, task_type = load_task(args.config, args.cfg_options)
    with config.located():
        dataset = task_type.dataset(config, args.split, training=not args.plain)
    task: Any = task_type.trial(config)
    dataset = task.prepare(dataset, config, training=not args.plain)
    loader: Any = create_loader(
        dataset, min(args.count, len(dataset)), training=not args.plain, seed=config.run.seed, lists=task.lists
    )
    loader.sampler.set_epoch(args.epoch)
    images, targets = next(iter(loader))
    paths = [dataset.sample_path(key.item) for key, _ in zip(loader.sampler, targets)]
    paths = ['' if path in loader.broken else path for path in paths]  # another sample replaces a broken one
    drawn = picture(config.task.name, task.pixels(images), targets, None, dataset.classes, paths)
    with whole_file(args.out) as part:
        drawn.save(part)
    print(f'{len(images)} of {len(dataset)} {loader.dataset.what} of {config.data.name}/{args.split} in {args.out}')
    return 0
