"""Every family computes the official function, parameter for parameter.

Promised: official state dicts load and give the official logits, features and statistics of layers within 2e-5; in
float64, the official float64 logits; parameter counts are those of the official classes.
"""

import pytest
import timm
import torch

import vimamba  # noqa: F401  (registers the models)
from tests.models.official import Case
from vimamba.testing import assert_parity

VIM = {'img_size': 64, 'embed_dim': 64, 'depth': 4}
VMAMBA = {'embed_dim': 32, 'depths': (1, 1, 2, 1), 'd_state': 4, 'expand': 2.0}
MAMBAVISION = {'stem_dim': 16, 'embed_dim': 32, 'depths': (1, 1, 3, 2), 'num_heads': (8, 16), 'window_size': (4, 2)}
TWO_WAY = ('raster', 'raster', 'raster_reversed', 'raster_reversed')
CASES = {  # official run -> variant and options
    'vim_mini_base': ('vim_tiny_patch16_224', VIM),
    'vim_mini_bimamba_none': ('vim_tiny_patch16_224', {**VIM, 'scan': 'raster'}),
    'vim_mini_bimamba_v1': ('vim_tiny_patch16_224', {**VIM, 'share_routes': True, 'merge': 'sum'}),
    'vim_mini_doublecls': ('vim_tiny_patch16_224', {**VIM, 'class_token': 'both'}),
    'vim_mini_headcls': ('vim_tiny_patch16_224', {**VIM, 'class_token': 'first'}),
    'vim_mini_layerscale': ('vim_tiny_patch16_224', {**VIM, 'layer_scale': 1e-4}),
    'vim_mini_nocls_mean': ('vim_tiny_patch16_224', {**VIM, 'class_token': 'none'}),
    'vim_mini_oddgrid': ('vim_tiny_patch16_224', {**VIM, 'img_size': (48, 80)}),
    'vim_tiny_224': ('vim_tiny_patch16_224', {}),
    'local_vim_tiny_224': ('local_vim_tiny', {}),
    'local_vim_tiny_middle_cls_token_224': ('local_vim_tiny_midcls', {}),
    'local_vmamba_tiny_224': ('local_vmamba_tiny', {}),
    'videomamba_img_tiny_224': ('videomamba_tiny_patch16_224', {}),
    'videomamba_tiny_8x224': ('videomamba_tiny_patch16_224_f8', {}),
    'mamba_nd_2d_small_224': ('mamba_nd_2d_small', {}),
    'mamba_nd_3d_small_8x224': ('mamba_nd_3d_small', {'num_frames': 8}),
    'vmamba_mini_noz': ('vmamba_tiny_s1l8', VMAMBA),
    'vmamba_mini_downv2': ('vmamba_tiny_s1l8', {**VMAMBA, 'downsample': 'patch'}),
    'vmamba_mini_patchv1': ('vmamba_tiny_s1l8', {**VMAMBA, 'stem': 'patch'}),
    'vmamba_mini_v05z': ('vmamba_tiny_s1l8', {**VMAMBA, 'gate': True}),
    'vmamba_mini_v051d_unidi': ('vmamba_tiny_s1l8', {**VMAMBA, 'scan': ('raster',) * 4}),
    'vmamba_mini_v052d_bidi': ('vmamba_tiny_s1l8', {**VMAMBA, 'scan': TWO_WAY}),
    'vmamba_tiny_s1l8_224': ('vmamba_tiny_s1l8', {}),
    'vmamba_tiny_s2l5_224': ('vmamba_tiny_s2l5', {}),
    'vmamba_vanilla_tiny_224': ('vmamba_v0_tiny', {}),
    'mambavision_mini_base': ('mambavision_tiny', MAMBAVISION),
    'mambavision_mini_layerscale': ('mambavision_tiny', {**MAMBAVISION, 'layer_scale': 1e-5}),
    'mambavision_T_224': ('mambavision_tiny', {}),
    'plain_mamba_l1_224': ('plain_mamba_l1', {}),
    'efficient_vmamba_tiny_224': ('efficient_vmamba_tiny', {}),
}
PARAMETERS = {  # measured on the official classes: images with 1000 classes, clips with 400
    'vim_tiny_patch16_224': 7_148_008,
    'vim_tiny_patch16_stride8_224': 7_250_344,
    'vim_small_patch16_224': 25_796_584,
    'vim_small_patch16_stride8_224': 26_001_256,
    'vim_base_patch16_224': 97_598_440,
    'local_vim_tiny': 7_994_152,
    'local_vim_tiny_midcls': 7_994_536,
    'local_vim_small': 27_783_784,
    'local_vim_small_searched': 27_783_784,
    'local_vmamba_tiny': 25_527_160,
    'local_vmamba_small': 49_748_536,
    'videomamba_tiny_patch16_224': 7_148_008,
    'videomamba_small_patch16_224': 25_796_584,
    'videomamba_middle_patch16_224': 74_217_448,
    'videomamba_base_patch16_224': 97_598_440,
    'videomamba_tiny_patch16_224_f8': 7_033_744,
    'videomamba_tiny_patch16_224_f16': 7_035_280,
    'videomamba_small_patch16_224_f8': 25_568_656,
    'videomamba_middle_patch16_224_f8': 73_875_856,
    'mamba_nd_2d_small': 24_505_192,
    'mamba_nd_2d_base': 94_425_832,
    'mamba_nd_3d_small': 36_380_176,
    'vmamba_v0_tiny': 22_893_448,
    'vmamba_v0_small': 44_417_416,
    'vmamba_v0_base': 76_254_056,
    'vmamba_tiny_s2l5': 30_705_832,
    'vmamba_small_s2l15': 50_147_752,
    'vmamba_base_s2l15': 88_557_800,
    'vmamba_tiny_s1l8': 30_249_064,
    'vmamba_small_s1l20': 49_012_840,
    'vmamba_base_s1l20': 86_614_504,
    'vmamba_tiny_m2': 25_340_296,
    'vmamba_small_m2': 39_079_816,
    'vmamba_base_m2': 67_527_528,
    'mambavision_tiny': 31_794_248,
    'mambavision_tiny2': 35_104_008,
    'mambavision_small': 50_140_584,
    'mambavision_base': 97_685_288,
    'mambavision_large': 227_961_048,
    'mambavision_large2': 241_554_824,
    'mambavision_large2_512': 241_554_824,
    'mambavision_large3': 739_570_472,
    'mambavision_large3_512': 739_570_472,
    'plain_mamba_l1': 7_551_656,
    'plain_mamba_l2': 26_145_832,
    'plain_mamba_l3': 50_956_456,
    'efficient_vmamba_tiny': 6_493_660,
    'efficient_vmamba_small': 11_273_688,
    'efficient_vmamba_base': 33_717_136,
}


def record_statistics(model):
    """Mean and standard deviation over the tokens, by the official names of layers, filled in forward."""
    statistics = {}

    def record(key, tokens):
        tokens = tokens.flatten(1, -2)
        statistics[key] = torch.stack((tokens.mean(1), tokens.std(1, correction=0)), 1)

    if hasattr(model, 'blocks'):
        for i, block in enumerate(model.blocks):
            block.norm.register_forward_pre_hook(lambda m, args, i=i: record(f'layer{i}_residual', args[0]))
            block.ls.register_forward_hook(lambda m, args, out, i=i: record(f'layer{i}_hidden', out))
    else:
        for i, layer in enumerate(model.layers):
            layer.register_forward_hook(lambda m, args, out, i=i: record(f'stage{i}', out))
    return statistics


@pytest.mark.parametrize('name', CASES)
def test_official_outputs(name):
    case, (variant, options) = Case(name), CASES[name]
    model = timm.create_model(variant, **options).eval()
    assert sum(p.numel() for p in model.parameters()) == case.params
    model.load_state_dict(model.checkpoint_filter_fn(case.state_dict(), model))
    statistics = record_statistics(model)
    with torch.no_grad():
        features = model.forward_features(case.input())
        assert_parity(model.forward_head(features), case.outputs['logits'], 'logits')
        assert_parity(model.forward_head(features, pre_logits=True), case.outputs['feat'], 'features')
    for key, expected in case.outputs.items():
        if key.startswith(('layer', 'stage')):
            assert_parity(statistics[key], expected, key)
    if 'mini' in name:
        with torch.no_grad():
            logits = model.double()(case.input()[:1].double())
        assert logits.dtype == torch.float64
        assert_parity(logits, case.outputs['logits_f64_sample0'], 'logits', 1e-6)  # they passed through float32 once


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameter_counts_are_those_of_the_official_classes(name):
    model = timm.create_model(name, device='meta')
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
