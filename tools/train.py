"""Trains from a configuration: python tools/train.py configs/classification/digits_vim_nano.py

Several GPUs or processes: torchrun --nproc-per-node 8 tools/train.py CONFIG
"""

import argparse
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout works without installing it
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch
if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # while torch is imported
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b'interrupted\n') and 130))

from vimamba.cli import add_import, import_code
from vimamba.errors import UsageError, run
from vimamba.memory import keep_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='a .py, .json or .yaml file, read as data')
    parser.add_argument('--work-dir', help='folder for checkpoints, logs and plots; default: runs/<config>')
    resume = 'go on from the newest checkpoint of the work dir, or from FILE'
    again = parser.add_mutually_exclusive_group()
    again.add_argument('--resume', nargs='?', const=True, default=False, metavar='FILE', help=resume)
    again.add_argument('--overwrite', action='store_true', help='start anew in a work dir that holds a run')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='such as optim.lr=1e-3')
    parser.add_argument('--help-config', action='store_true', help='list every key of a configuration')
    add_import(parser)
    args = parser.parse_args()
    if args.help_config:
        from vimamba.tasks import describe

        print(describe())
        return 0
    if not args.config:
        parser.error('a configuration file is needed')
    if not find_spec('mmengine'):
        raise UsageError('training needs mmengine, which is not installed: pip install vimamba[train]')
    import_code(args.imports)
    from vimamba.engine.train import train

    keywords = {'work_dir': args.work_dir, 'resume': args.resume, 'overwrite': args.overwrite}
    return train(args.config, options=args.cfg_options, **keywords)


if __name__ == '__main__':
    keep_memory()
    run(main)
