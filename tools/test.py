"""Evaluates a checkpoint: python tools/test.py CONFIG runs/NAME/best.pth --split test --out-dir out"""

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='the configuration that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='best.pth of a run, or a file of weights')
    parser.add_argument('--split', default='val', help='part of the data set: train, val or test')
    parser.add_argument('--json', metavar='FILE', help='write all numbers there')
    parser.add_argument('--out-dir', help='write confusion.png and predictions.png there')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='such as data.workers=0')
    add_import(parser)
    args = parser.parse_args()
    if not find_spec('mmengine'):
        raise UsageError('evaluation needs mmengine, which is not installed: pip install vimamba[train]')
    import_code(args.imports)
    from vimamba.engine.evaluation import evaluate_checkpoint

    keywords = {'split': args.split, 'json_file': args.json, 'out_dir': args.out_dir}
    return evaluate_checkpoint(args.config, args.checkpoint, options=args.cfg_options, **keywords)


if __name__ == '__main__':
    keep_memory()
    run(main)
