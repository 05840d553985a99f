"""A process of a distributed run that dies is started again by torchrun, and the run ends as if nothing had been."""

import subprocess
import sys
from pathlib import Path

from tests.runs import complete_distributed, differences, last, said, write_config

ROOT = Path(__file__).parents[2]
SCRIPT = """
import atexit, glob, os, sys
sys.path.insert(0, {root!r})
from tests.runs import Fault, FaultyTask
from vimamba.engine.train import train
from vimamba.errors import run
from vimamba.tasks import TASKS

TASKS['classification'] = FaultyTask
if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
    FaultyTask.faults = (Fault(7, 'kill', rank=1),)

def name_threads():  # a thread of gloo that is still alive when Python ends can abort the process
    print('threads at exit', sorted(open(path).read().strip() for path in glob.glob('/proc/self/task/*/comm')))

atexit.register(name_threads)
run(lambda: train({config!r}, work_dir={folder!r}, resume=True))
"""


def test_rank_1_dies_and_torchrun_restarts_bit_identically(tmp_path):
    config = write_config(
        tmp_path / 'c.py',
        model={'drop_path_rate': 0.2},
        data={'batch_size': 8},
        augment={'style': 'small', 'degrees': 10.0, 'mixup': 0.2},
        schedule={'epochs': 2},
        run={'ema': 0.9, 'checkpoint_interval': 2},
    )
    undisturbed, folder = tmp_path / 'undisturbed', tmp_path / 'run'
    assert complete_distributed(config, undisturbed) == [0, 0], said(undisturbed)
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT.format(root=str(ROOT), config=str(config), folder=str(folder)))
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
               '--max-restarts', '1', str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'exitcode: -9' in done.stderr
    assert 'error: rank 0: another process of this run ended' in done.stderr
    assert done.stdout.count('threads at exit') >= 2  # torchrun may end the survivor of the first attempt sooner
    assert 'gloo' not in done.stdout
    assert 'RuntimeError' not in done.stderr
    assert f'resuming {folder / "last.pth"} after epoch 0 and 6 of 7 steps' in done.stdout
    assert differences(last(undisturbed), last(folder)) == []
