"""What the FLOP counts promise: both counters see the scan, and the sum is that made by hand."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import vimamba  # noqa: F401  (registers the models)
from vimamba.kernels.selective_scan import selective_scan
from vimamba.profile.flops import FVCORE_HANDLES, count_flops

L, D, N, K, DEPTH = 197, 384, 16, 2, 24  # tokens, channels, states, routes and layers of Vim-T at 224 pixels
SCAN = DEPTH * L * D * (9 * K * N + K + 1)
CONV = DEPTH * 2 * (L + 3) * K * D * 4  # counters hook modules, which are then called: the padding counts, too


def vim_tiny():
    return timm.create_model('vim_tiny_patch16_224', device='meta')


def test_vim_tiny_is_counted_as_by_hand():
    dense = 192 * 768 + K * D * (12 + 2 * N) + K * 12 * D + D * 192
    patches = 2 * 196 * 192 * 3 * 16 * 16
    counts = count_flops(vim_tiny(), (1, 3, 224, 224))
    assert counts[''] == DEPTH * 2 * L * dense + patches + 2 * 192 * 1000 + SCAN + CONV
    assert counts['blocks.0'] == counts[f'blocks.{DEPTH - 1}'] > 0
    assert count_flops(vim_tiny(), torch.empty(2, 3, 224, 224, device='meta'))[''] == 2 * counts['']


def test_a_model_stays_in_its_mode():
    model = vim_tiny().train()
    count_flops(model, (1, 3, 224, 224))
    assert model.training


def test_a_backward_pass_is_two_forward_passes():
    u, delta = (torch.rand(1, 4, 8, requires_grad=True) for _ in range(2))
    B, C = (torch.rand(1, 3, 8) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        selective_scan(u, delta, -torch.ones(4, 3), B, C).sum().backward()
    assert counter.get_total_flops() == 3 * 9 * 4 * 3 * 8


@pytest.mark.filterwarnings('ignore')
def test_fvcore_counts_the_scan():
    fvcore = pytest.importorskip('fvcore.nn', reason='fvcore is not installed')
    model = timm.create_model('vim_tiny_patch16_224').eval()
    analysis = fvcore.FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224)).set_op_handle(**FVCORE_HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    operators = analysis.by_operator()
    assert operators['route_scan'] == SCAN
    assert operators['conv'] == (CONV + 2 * 196 * 192 * 3 * 16 * 16) // 2  # it counts multiply-adds
