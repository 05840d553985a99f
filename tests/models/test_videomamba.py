"""VideoMamba loads official files; a causal model runs on streams of frames."""

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.official import Case
from vimamba.errors import UsageError
from vimamba.models.videomamba import VideoMamba
from vimamba.testing import relative_l2

CLIPS = Case('videomamba_tiny_8x224')
IMAGES = Case('videomamba_img_tiny_224')


def small(**kwargs):
    torch.manual_seed(0)
    own = {'img_size': (16, 24), 'patch_size': 8, 'num_frames': 4, 'embed_dim': 32, 'depth': 3, 'num_classes': 5}
    return VideoMamba(**{**own, **kwargs})


def causal(**kwargs):
    return small(causal=True, **kwargs).eval()


def clip(frames, batch=2, size=(16, 24)):
    return torch.randn(batch, 3, frames, *size, generator=torch.Generator().manual_seed(frames))


def save(path, weights, under=None):
    torch.save({under: weights} if under else weights, path)
    return {'pretrained': True, 'pretrained_cfg_overlay': {'file': str(path)}}


@pytest.mark.parametrize('under', [None, 'model'])
def test_official_files_of_clips_load_as_published(tmp_path, under):
    extra = {'clip_decoder.0.head.weight': torch.ones(2, 2)}
    file = save(tmp_path / 'clips.pth', {**CLIPS.state_dict(), **extra}, under)
    model = timm.create_model('videomamba_tiny_patch16_224_f8', num_classes=400, **file)
    times = CLIPS.state_dict()['temporal_pos_embedding']
    torch.testing.assert_close(model.patch_embed.time_embed, torch.nn.Parameter(times))


def test_a_file_of_eight_frames_starts_a_model_of_others(tmp_path):
    file = save(tmp_path / 'clips.pth', CLIPS.state_dict())
    model = timm.create_model('videomamba_tiny_patch16_224_f16', num_classes=3, img_size=(96, 160), **file)
    times = F.interpolate(CLIPS.state_dict()['temporal_pos_embedding'].transpose(1, 2), 16, mode='linear')
    assert torch.equal(model.patch_embed.time_embed, times.transpose(1, 2))
    assert model.pos_embed.shape == (1, 1 + 6 * 10, 192)
    assert model(torch.zeros(1, 3, 16, 96, 160)).shape == (1, 3)


@pytest.mark.parametrize('tubelet', [1, 2])
def test_a_file_of_images_starts_a_model_of_clips(tmp_path, tubelet):
    """A clip in which the frame read of every patch is the image, at one time only, has the features of the image."""
    file = save(tmp_path / 'images.pth', IMAGES.state_dict(), 'model')
    image = timm.create_model('videomamba_tiny_patch16_224', **file).eval()
    video = timm.create_model('videomamba_tiny_patch16_224_f8', num_frames=tubelet, tubelet_size=tubelet, **file).eval()
    frames = torch.randn(1, 3, tubelet, 224, 224)
    with torch.no_grad():
        want = image.forward_features(frames[:, :, tubelet // 2])
        assert relative_l2(video.forward_features(frames), want) < 1e-6
    assert video.head.out_features == 400
    assert not video.patch_embed.time_embed.any()


@pytest.mark.parametrize(('case', 'tubelet'), [(CLIPS, 1), (IMAGES, 2)], ids=['clips', 'images'])
def test_files_serve_grey_clips(tmp_path, case, tubelet):
    file = save(tmp_path / 'official.pth', case.state_dict(), 'model')
    model = timm.create_model('videomamba_tiny_patch16_224_f8', in_chans=1, tubelet_size=tubelet, **file)
    want = case.state_dict()['patch_embed.proj.weight'].sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.weight[:, :, tubelet // 2], want.view(192, 1, 16, 16))


def test_a_file_of_masked_pretraining_starts_a_classifier(tmp_path):
    weights = {f'encoder.{key}': value for key, value in CLIPS.state_dict().items() if not key.startswith('head.')}
    file = save(tmp_path / 'masked.pth', {**weights, 'encoder.clip_decoder.0.head.weight': torch.ones(2, 2)})
    model = timm.create_model('videomamba_tiny_patch16_224_f8', **file)
    assert torch.equal(model.norm.weight, CLIPS.state_dict()['norm_f.weight'])
    assert model.head.weight.std() > 0.01


def test_a_file_of_another_size_of_model_is_refused(tmp_path):
    file = save(tmp_path / 'clips.pth', CLIPS.state_dict())
    with pytest.raises(UsageError, match=r"clips.pth: these weights do not fit 'videomamba_small_patch16_224_f8'"):
        timm.create_model('videomamba_small_patch16_224_f8', **file)


def test_frames_and_their_size_change_with_the_input_size():
    model = small()
    model.patch_embed.time_embed.data.normal_()
    model.set_input_size((32, 40), num_frames=6)
    assert model(clip(6, size=(32, 40))).shape == (2, 5)
    model.set_input_size(num_frames=2)
    assert model(clip(2, size=(32, 40))).shape == (2, 5)


def test_a_dynamic_model_resizes_as_one_that_is_told():
    told, dynamic = small().eval(), small(dynamic_img_size=True).eval()
    for model in (told, dynamic):
        torch.manual_seed(1)
        model.patch_embed.time_embed.data.normal_()
    told.set_input_size((32, 8), num_frames=7)
    with torch.no_grad():
        assert relative_l2(dynamic(clip(7, size=(32, 8))), told(clip(7, size=(32, 8)))) < 1e-6


@pytest.mark.parametrize('scan', ['spatial_first_bidirectional', 'temporal_first', 'tube2_bidirectional', 'axes_3d'])
def test_clips_are_read_in_any_order_over_time(scan):
    model = small(scan=scan)
    model(clip(4)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([1, 2]))
def test_parts_of_any_length_give_what_the_clip_gives(parts, tubelet):
    parts = [tubelet * part for part in parts]
    model, x, state, seen = causal(tubelet_size=tubelet, layer_scale=0.3), clip(sum(parts)), None, 0
    with torch.no_grad():
        for part in x.split(parts, 2):
            scores, state = model.step(part, state)
            seen += part.shape[2]
            assert relative_l2(scores, model(x[:, :, :seen])) < 1e-5


@pytest.mark.parametrize('clips', [True, False], ids=['clips', 'images'])
def test_a_file_of_whole_clips_or_images_starts_a_causal_model(tmp_path, clips):
    given = CLIPS if clips else IMAGES
    file = save(tmp_path / 'model.pth', given.state_dict(), 'model')
    name = 'videomamba_tiny_patch16_224' + '_f8' * clips
    plain = timm.create_model(name, num_classes=given.state_dict()['head.weight'].shape[0], **file)
    model = timm.create_model('videomamba_tiny_causal_patch16_224', num_classes=plain.num_classes, **file)
    theirs = plain.state_dict()
    for key, value in model.state_dict().items():
        if key == 'pos_embed':
            assert torch.equal(value, theirs[key][:, 1:])
        elif key == 'patch_embed.proj.weight':
            assert torch.equal(value.squeeze(2), theirs[key].squeeze(2) if clips else theirs[key])
        elif clips or not key.startswith('head.'):
            assert torch.equal(value, theirs[key]), key


def test_a_state_is_moved_saved_and_restarted(tmp_path):
    model, x = causal(), clip(8)
    with torch.no_grad():
        _, state = model.step(x[:, :, :5])
        torch.save(state, tmp_path / 'state.pt')
        assert state.to('meta').total.is_meta
        again = torch.load(tmp_path / 'state.pt').to('cpu')
        scores, _ = model.step(x[:, :, 5:], again)
        assert torch.equal(scores, model.step(x[:, :, 5:], state)[0])
        fresh, after = model.step(x[:, :, 5:], state.restart())
        tokens = model.forward_features(x)[:, -after.tokens :]
    assert relative_l2(fresh, model.head(tokens.mean(1))) < 1e-5  # the last three frames, with the five before in mind
    with pytest.raises(UsageError, match=r'state: expected None or what `step` returned, got dict'):
        model.step(x, {'layers': ()})


def test_256_frames_one_by_one_leave_a_state_no_larger_than_one_does():
    model, x, state = causal(), clip(256), None
    sizes = set()
    with torch.no_grad():
        for frame in x.split(1, 2):
            scores, state = model.step(frame, state)
            tensors = [state.total, *(t for own in state.layers for t in own)]
            sizes.add(sum(t.numel() * t.element_size() for t in tensors))
            assert not any(t.requires_grad for t in tensors)
        assert relative_l2(scores, model(x)) < 1e-5
    assert len(sizes) == 1


def test_a_state_owns_what_it_keeps():
    """Not a view into the activations of the frames that made it, which would hold them in memory."""
    model = causal()
    with torch.no_grad():
        _, state = model.step(clip(8))
    for tensor in (t for own in state.layers for t in own):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_the_channels_of_frames_that_come_lie_side_by_side():
    """As the convolution reads them without a copy, and a GPU in whole lines."""

    class Conv(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.vimamba.route_conv1d.default:
                strides.append(args[0].stride(1))
            return func(*args, **(kwargs or {}))

    model, state, strides = causal(), None, []
    with torch.no_grad(), Conv():
        for frame in clip(2).split(1, 2):
            _, state = model.step(frame, state)
    assert strides == [1] * 6


def test_no_frame_knows_what_comes():
    model, x = causal(), clip(6)
    other = x.clone()
    other[:, :, 4:] = 0
    with torch.no_grad():
        tokens, others = model.forward_features(x), model.forward_features(other)
    assert torch.equal(tokens[:, : 4 * 6], others[:, : 4 * 6])
    assert not torch.equal(tokens[:, 4 * 6 :], others[:, 4 * 6 :])


@pytest.mark.parametrize(('chunk', 'recompute'), [(0, True), (1, False), (3, False), (3, True), (8, False)])
def test_training_in_parts_changes_no_gradient(chunk, recompute):
    def gradients(model):
        model.train()(clip(8)).square().sum().backward()
        return [p.grad for p in model.parameters()]

    model = causal(chunk_frames=chunk)
    model.set_grad_checkpointing(recompute)
    for whole, parts in zip(gradients(causal()), gradients(model), strict=True):
        assert relative_l2(parts, whole) < 1e-5


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('chunk', [1, 3])
def test_stochastic_depth_leaves_out_a_block_in_all_parts(chunk, recompute):
    def run(model):
        torch.manual_seed(1)
        model.set_grad_checkpointing(recompute)
        scores = model.train()(clip(8, batch=16))
        return scores, *torch.autograd.grad(scores.square().sum(), list(model.parameters()))

    whole, parts = run(causal(drop_path_rate=0.5)), run(causal(drop_path_rate=0.5, chunk_frames=chunk))
    for own, want in zip(parts, whole, strict=True):
        assert relative_l2(own, want) < 1e-5
    assert relative_l2(parts[0], causal()(clip(8, batch=16))) > 1e-2


def test_so_many_frames_are_run_at_a_time():
    model, seen = causal(chunk_frames=3), []
    model.patch_embed.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[2]))
    model(clip(8))
    assert seen == [3, 3, 2]


def test_a_step_in_training_draws_what_stochastic_depth_leaves_out():
    model, x = causal(drop_path_rate=0.5), clip(2, batch=16)
    scores = [model.train(training).step(x)[0] for training in (False, False, True)]
    assert torch.equal(scores[0], scores[1])
    assert relative_l2(scores[2], scores[0]) > 1e-2


def kept(forward):
    """Bytes that autograd saves in a forward pass; states between parts, of a fixed size, come on top."""
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        assert forward().requires_grad
    return sum(sizes.values())


def test_training_in_parts_keeps_little_of_a_long_clip():
    def grown(model):
        long, short = clip(32), clip(16)
        return kept(lambda: model(long)) - kept(lambda: model(short))

    assert grown(causal(chunk_frames=2).train()) < 0.2 * grown(causal().train())


def test_recomputed_steps_keep_less_and_change_no_gradient():
    plain, recomputed = causal().train(), causal().train()
    recomputed.set_grad_checkpointing()
    frames = clip(16)
    assert kept(lambda: recomputed.step(frames)[0]) < 0.5 * kept(lambda: plain.step(frames)[0])

    def gradients(model):
        _, state = model.step(clip(2))
        scores, _ = model.step(clip(3), state)
        scores.square().sum().backward()
        return [p.grad for p in model.parameters()]

    for want, grad in zip(gradients(plain), gradients(recomputed), strict=True):
        assert relative_l2(grad, want) < 1e-6


def test_gradients_flow_through_the_state_until_it_is_detached():
    model = causal()
    first = clip(2).requires_grad_()
    _, state = model.step(first)
    scores, _ = model.step(clip(3), state)
    (grad,) = torch.autograd.grad(scores.sum(), first, retain_graph=True)
    assert grad.abs().sum() > 0
    scores, _ = model.step(clip(3), state.detach())
    assert torch.autograd.grad(scores.sum(), first, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: small()(clip(4)[0]), r'expected \(b, channels, frames, height, width\), got shape \[3, 4, 16, 24\]'),
        (lambda: small()(clip(5)), 'clip of 5 frames: this model takes 4; .* or build it with num_frames=5'),
        (lambda: small()(clip(4, size=(8, 24))), 'this model takes 16x24'),
        (lambda: causal(tubelet_size=2)(clip(5)), 'expected a multiple of the 2 frames of a patch'),
        (lambda: causal(tubelet_size=2, chunk_frames=4)(clip(9)), 'clip of 9 frames: expected a multiple of the 2'),
    ],
)  # fmt: skip
def test_a_wrong_clip_is_answered_with_what_is_expected(make, message):
    with pytest.raises(AssertionError, match=message):
        make()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: small(num_frames=5, tubelet_size=2), 'num_frames: expected a positive multiple of tubelet_size, 2'),
        (lambda: small(tubelet_size=0), 'tubelet_size: expected an integer >= 1, got 0'),
        (lambda: small(rope=True, class_token='none'), 'rope: expected none of it'),
        (lambda: small(pad_image=True), 'pad_image: expected none of it'),
        (lambda: small(feature_pyramid=(0, 1, 1, 2)), 'feature_pyramid: expected none of it'),
        (lambda: causal(mixer='mamba2'), "^mixer: expected .*got 'mamba2'"),
        (lambda: causal(merge='attention'), "causal: expected one route .* got 'raster' and 'attention'"),
        (lambda: small(class_token='middle'), "class_token: expected 'first' or 'none', got 'middle'"),
        (lambda: causal(class_token='first'), "class_token: expected 'none', got 'first'"),
        (lambda: causal(scan='bidirectional'), 'causal: expected one route in memory order'),
        (lambda: causal(scan='raster_reversed'), 'causal: expected one route in memory order'),
        (lambda: small(chunk_frames=2), r'chunk_frames: expected 0, or a causal model \(causal=True\), got 2'),
        (lambda: causal(tubelet_size=2, chunk_frames=3), 'chunk_frames: expected a multiple of 2, got'),
        (lambda: small().step(clip(1)), 'step: this model needs whole clips; build it with causal=True'),
        (lambda: causal(global_pool='max').step(clip(1)), 'step: this model needs whole clips'),
        (lambda: small().set_input_size(num_frames=0), 'num_frames: expected a positive multiple'),
        (lambda: small().set_input_size(num_frames='6'), "num_frames: expected a positive multiple .* got '6'"),
        (lambda: causal().step(clip(1, 3), causal().step(clip(1))[1]), r'state: expected one of .* \(3, 3, 32\), got'),
        (lambda: causal(depth=2).step(clip(1), causal().step(clip(1))[1]), r'state: .* \(2, 2, 32\), got \(3, 2, 32\)'),
        (lambda: causal(embed_dim=16).step(clip(1), causal().step(clip(1))[1]), r'state: .* got \(3, 2, 32\)'),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_is_valid(make, message):
    with pytest.raises(UsageError, match=message):
        make()
