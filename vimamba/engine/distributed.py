"""The processes of a run. For one or several alike, what they exchange goes through `mmengine.dist`."""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from vimamba.data import end_workers, lost_worker
from vimamba.errors import UsageError

__all__ = ['initialized']


def _local_device(name: str) -> torch.device:
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name == 'cuda':
        local = int(os.environ.get('LOCAL_RANK', 0))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f'this process needs GPU {local}, and {torch.cuda.device_count()} are visible: '
                'start fewer processes (--nproc-per-node), or run.device=cpu',
                key='run.device',
            )
        torch.cuda.set_device(local)
        return torch.device('cuda', local)
    if name == 'mps' and not torch.backends.mps.is_available():
        raise UsageError('this machine has no mps: run.device=auto', key='run.device')
    return torch.device(name)


@contextmanager
def initialized(name: str) -> Iterator[torch.device]:
    """Starts the process group of torchrun, nccl between GPUs and gloo between CPUs, if there are several processes.

    mmengine's own start always calls ``torch.cuda.set_device``.

    Args:
        name: name of the device; 'auto' is a GPU if there is one. Under torchrun, 'cuda' is the GPU of this process.

    Yields:
        The device.

    Raises:
        UsageError: there is no such device; or a data worker or another process was lost.
    """
    device = _local_device(name)
    with _process_group(device):
        try:
            yield device
        except RuntimeError as error:
            if lost := lost_worker(error) or _lost_peer(error):
                end_workers()
                raise lost from None
            raise


@contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    if 'RANK' not in os.environ or 'MASTER_ADDR' not in os.environ or dist.is_initialized():
        yield
        return
    backend = 'nccl' if device.type == 'cuda' else 'gloo'
    timeout = timedelta(minutes=30)
    store, rank, size = next(dist.rendezvous('env://', timeout=timeout))
    if os.environ.get('GROUP_WORLD_SIZE') == '1':
        # torchrun keeps its store when it restarts the processes of a machine; under the same keys, the new ones
        # would find the addresses of the dead.
        store = dist.PrefixStore(f'attempt {os.environ.get("TORCHELASTIC_RESTART_COUNT")}', store)
    bound = device if backend == 'nccl' else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=bound)
    # The group lives on in the reference cycles of the model, and its threads abort a Python that ends before them.
    atexit.register(gc.collect)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _lost_peer(error: RuntimeError) -> UsageError | None:
    """The UsageError for an error of torch that reports a lost process; None for any other error."""
    if not dist.is_initialized() or not (isinstance(error, dist.DistError) or 'gloo' in str(error)):
        return None
    return UsageError(
        f'rank {dist.get_rank()}: another process of this run ended, and its own message says why; the command with '
        '--resume goes on, and torchrun --max-restarts does so by itself'
    )
