"""Promises: a video has the labels that testing gives it, a stream those of the clip so far, in memory that stays."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vimamba  # noqa: F401  (registers the models)
from tests.data.test_video_decode import broken, write
from vimamba.checkpoint import FORMAT, save_checkpoint
from vimamba.commands.predict import main
from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.video_datasets import VideoList
from vimamba.data.video_decode import BrokenVideo, read_clip, timed_frames
from vimamba.engine.train import train
from vimamba.errors import UsageError, run
from vimamba.tasks import VideoTask
from vimamba.tasks.predict.classify import load_classifier, predict
from vimamba.tasks.predict.stream import StreamPrediction, stream

TOOL = Path(__file__).parents[2] / 'tools' / 'predict.py'
CLASSES = [f'move {i}' for i in range(6)]
MODEL = {'img_size': 32, 'depth': 2}


def small(name='test_videomamba', num_classes=6, **options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=num_classes, **{**MODEL, **options})
    torch.nn.init.normal_(model.get_classifier().weight)  # so that the classes differ
    return model.eval()


def save(path, name='test_videomamba', options=None, **data):
    """A checkpoint as training writes it; ``data`` are options of the data set."""
    options = {'depth': 2, **(options or {})}
    model = {'name': name, 'pretrained': False, 'checkpoint': None, 'img_size': 32, 'in_chans': 3}
    config = {
        'task': {'name': 'video', 'options': {}},
        'model': {**model, 'drop_path_rate': None, 'options': options},
        'data': {'name': 'video_list', 'interpolation': 'bilinear', 'crop_pct': 0.9, 'options': data},
    }
    content = {'format': FORMAT, 'model': small(name, **options).state_dict(), 'classes': CLASSES, 'config': config}
    save_checkpoint(content, path)
    return path


def movie(path, frames=24, size=(64, 48)):
    """A square that wanders over noise, so that no two frames are alike."""
    av = pytest.importorskip('av')
    rand = np.random.default_rng(frames)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'crf': '10', 'threads': '1'})
        stream.width, stream.height, stream.pix_fmt = *size, 'yuv420p'
        for i in range(frames):
            image = rand.integers(0, 80, (size[1], size[0], 3), np.uint8)
            image[8:24, 2 * i % 40 : 2 * i % 40 + 16] = (250, 10 * i % 250, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())
    return str(path)


@pytest.fixture
def videos(tmp_path):
    (folder := tmp_path / 'videos').mkdir()
    return [movie(folder / f'{i}.mp4', 12 + 4 * i, (48 + 16 * i, 48)) for i in range(3)]


@pytest.fixture
def tool(capsys):
    """Runs the command in this process; gives exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            run(lambda: main(['--device', 'cpu', *map(str, arguments)]))
        return end.value.code, *capsys.readouterr()

    return call


def transform(crops=1):
    return ClipTransform((32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False, 'bilinear', 0.9, crops)


def agree(entry, probabilities):
    values, indices = probabilities.topk(len(entry['predictions']))
    assert [p['index'] for p in entry['predictions']] == indices.tolist()
    assert [p['score'] for p in entry['predictions']] == pytest.approx(values.tolist(), abs=1e-5)


VIEWS = {
    'one': {},
    'crops': {'num_crops': 3},
    'clips and crops': {'num_clips': 2, 'num_crops': 3},
    'dense': {'sampling': 'dense', 'frame_interval': 2, 'num_clips': 3},
    'backward': {'time': 'backward'},
}


@pytest.mark.parametrize('views', VIEWS)
def test_labels_are_those_that_testing_gives(tool, tmp_path, videos, views):
    options = VIEWS[views]
    given = {key: value for key, value in options.items() if key != 'num_crops'}
    (tmp_path / 'test.txt').write_text(''.join(f'{path} 0\n' for path in videos))
    dataset = VideoList(
        root=tmp_path, split='test', transform=transform(options.get('num_crops', 1)), num_frames=4, **given
    )
    with torch.inference_mode():
        expected = VideoTask(small(), CLASSES)(torch.stack([clip for clip, _ in dataset])).softmax(1)
    code, out, err = tool(*videos, '--checkpoint', save(tmp_path / 'best.pth', **options), '--json', '-', '--topk', 3)
    assert (code, err) == (0, '')
    rows = json.loads(out)['videos']
    assert [row['path'] for row in rows] == videos
    for row, probabilities in zip(rows, expected):
        agree(row, probabilities)
        assert all(p['class'] == CLASSES[p['index']] for p in row['predictions'])


def test_a_batch_has_the_frames_of_as_many_images_and_one_video_at_least(tmp_path, videos):
    classifier, sizes = load_classifier(checkpoint=save(tmp_path / 'best.pth')), []
    classifier.model.register_forward_pre_hook(lambda model, given: sizes.append(len(given[0])))
    for own in (classifier, classifier.with_views(2, 3)):
        assert len(list(predict(own, videos, batch_size=8))) == 3
    assert sizes == [2, 1, *[1] * 18]


@pytest.mark.parametrize(('name', 'num_classes'), [('test_videomamba', 400), ('test_mamba_nd_3d', 5)])
def test_official_files_label_by_number_in_the_views_asked_for(tool, tmp_path, videos, name, num_classes):
    model = timm.create_model(name, num_classes=num_classes).eval()
    torch.save({'module': model.state_dict()}, tmp_path / 'official.pth')
    code, out, err = tool(
        *videos, '--model', name, '--checkpoint', tmp_path / 'official.pth', '--views', 2, 3, '--json', '-'
    )
    assert (code, err) == (0, '')
    classifier = load_classifier(name, tmp_path / 'official.pth').with_views(2, 3)
    for row, path in zip(json.loads(out)['videos'], videos, strict=True):
        views = classifier.read(path)
        assert views.shape == (6, 3, 4, 64, 64)
        with torch.inference_mode():
            agree(row, model(views).softmax(1).mean(0))
        assert [p['class'] for p in row['predictions']] == [str(p['index']) for p in row['predictions']]


def test_a_folder_gives_its_videos_and_a_broken_one_costs_only_itself(tool, tmp_path, videos):
    folder = tmp_path / 'videos'
    Image.new('RGB', (32, 32)).save(folder / 'cover.png')
    (folder / 'notes.txt').write_text('of the day')
    bad = broken(folder, 'text')
    picture = tmp_path / 'sheet.png'
    code, out, err = tool(folder, '--checkpoint', save(tmp_path / 'best.pth'), '--topk', 2, '--picture', picture)
    assert (code, err.splitlines()) == (
        1,
        [f'error: {bad}: not a video that FFmpeg can read (Invalid data found when processing input)'],
    )
    lines = out.splitlines()
    assert lines[0].split() == ['video', 'score', 'class']
    assert [line.split()[0] for line in lines[1::2]] == videos
    with Image.open(picture) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] > 8 * 100
    red = (pixels[..., 0] > 200) & (pixels[..., 2] < 130)  # the square, in every frame of every video
    columns = np.flatnonzero(red.any(0))
    assert 1 + (np.diff(columns) > 10).sum() == 8


def test_images_and_videos_are_not_taken_for_each_other(tool, tmp_path, videos):
    image = tmp_path / 'a.png'
    Image.new('RGB', (40, 32)).save(image)
    clips = save(tmp_path / 'best.pth')
    code, out, err = tool(image, videos[0], '--checkpoint', clips, '--topk', 1)
    assert (code, err) == (1, f'error: {image}: an image, but test_videomamba labels videos\n')
    assert videos[0] in out
    torch.save(timm.create_model('test_vit', num_classes=3).state_dict(), tmp_path / 'images.pth')
    images = ('--model', 'test_vit', '--checkpoint', tmp_path / 'images.pth')
    code, out, err = tool(videos[0], image, *images)
    assert (code, err) == (1, f'error: {videos[0]}: a video, but test_vit labels images\n')
    assert str(image) in out
    code, _, err = tool(tmp_path / 'videos', *images)
    assert (code, err.count('\n')) == (2, 1)
    assert 'no images found in' in err
    code, _, err = tool(image, '--views', 1, 3, *images)
    assert (code, err.count('\n')) == (2, 1)
    assert 'test_vit labels images' in err


def test_a_file_of_images_labels_no_video(tool, tmp_path, videos):
    """It starts a model of clips, but with a classifier of random numbers."""
    torch.save(timm.create_model('videomamba_tiny_patch16_224').state_dict(), tmp_path / 'images.pth')
    code, _, err = tool(videos[0], '--model', 'videomamba_tiny_patch16_224_f8', '--checkpoint', tmp_path / 'images.pth')
    assert (code, err.count('\n')) == (2, 1)
    assert 'images.pth: has no classifier for videomamba_tiny_patch16_224_f8' in err


CAUSAL = 'test_videomamba_causal'


@pytest.mark.parametrize(
    ('options', 'data', 'interval', 'patch'),
    [
        ({}, {'num_clips': 2, 'num_crops': 3}, 1, 1),
        ({'tubelet_size': 2}, {}, 1, 2),
        ({}, {'sampling': 'dense', 'frame_interval': 3}, 3, 1),
    ],
    ids=['every frame', 'tubelets', 'every third'],
)
def test_a_stream_says_what_the_model_says_of_the_clip_so_far(tmp_path, options, data, interval, patch):
    file, checkpoint = movie(tmp_path / 'a.mp4', 22), save(tmp_path / 'best.pth', CAUSAL, options, **data)
    rows = list(stream(load_classifier(checkpoint=checkpoint), file, every=5))
    assert [row.frames for row in rows] == [5, 10, 15, 20, 22]
    assert [row.seconds for row in rows] == pytest.approx([0.4, 0.9, 1.4, 1.9, 2.1])
    model = small(CAUSAL, **options)
    for row in rows:
        seen = list(range(0, row.frames, interval))
        clip = transform()(read_clip(file, lambda frames, seen=seen: seen[: len(seen) // patch * patch]))
        with torch.inference_mode():
            probabilities = model(clip[None]).softmax(1)[0]
        assert row.index == int(probabilities.argmax())
        assert row.score == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert row.label == CLASSES[row.index]


def test_the_command_prints_as_frames_come_and_writes_the_rows(tool, tmp_path):
    file, checkpoint = movie(tmp_path / 'a.mp4', 20), save(tmp_path / 'best.pth', CAUSAL)
    code, out, err = tool('--stream', file, '--checkpoint', checkpoint, '--every', 8, '--json', tmp_path / 'out.json')
    assert (code, err) == (0, '')
    header, *lines, last = out.splitlines()
    assert header.split() == ['frames', 'time', 'speed', 'score', 'class']
    assert [line.split()[0] for line in lines] == ['8', '16', '20']
    assert last.startswith(f'{file}: 20 frames, ')
    result = json.loads((tmp_path / 'out.json').read_text())
    assert (result['model'], result['path'], result['broken']) == (CAUSAL, file, [])
    for row, line in zip(result['predictions'], lines, strict=True):
        assert line.endswith(f'{row["score"]:.2%}  {row["class"]}')
        assert row['frames_per_second'] > 0
    code, out, _ = tool('--stream', file, '--checkpoint', checkpoint, '--json', '-')
    assert [row['frames'] for row in json.loads(out)['predictions']] == [16, 20]


def test_an_interrupt_is_the_end_of_a_stream(tool, tmp_path, monkeypatch, request):
    """What has come is said and written; a second one does not wait."""
    file, checkpoint, out = movie(tmp_path / 'a.mp4', 20), save(tmp_path / 'best.pth', CAUSAL), tmp_path / 'out.json'
    before = signal.default_int_handler
    ours = signal.signal(signal.SIGINT, before)  # which a shell's background ignores
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ours))

    def interrupted(times):
        def frames(path):
            for i, timed in enumerate(timed_frames(path)):
                if i == 10:
                    for _ in range(times):
                        signal.raise_signal(signal.SIGINT)
                yield timed

        monkeypatch.setattr('vimamba.tasks.predict.stream.timed_frames', frames)
        return tool('--stream', file, '--checkpoint', checkpoint, '--every', 8, '--json', out)

    code, said, err = interrupted(times=2)
    assert (code, err, out.exists()) == (130, 'interrupted\n', False)
    assert signal.getsignal(signal.SIGINT) == before
    code, said, err = interrupted(times=1)
    assert (code, err) == (130, 'interrupted\n')
    *rows, last = said.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ['8', '11']
    assert last.startswith(f'{file}: 11 frames, ')
    result = json.loads(out.read_text())
    assert [row['frames'] for row in result['predictions']] == [8, 11]
    with torch.inference_mode():
        clip = transform()(read_clip(file, lambda frames: range(11)))
        scores = small(CAUSAL)(clip[None]).softmax(1)[0]
    assert result['predictions'][-1]['score'] == pytest.approx(float(scores.max()), abs=1e-5)


def test_what_a_truncated_video_has_is_said_before_its_error(tool, tmp_path):
    checkpoint, bad = save(tmp_path / 'best.pth', CAUSAL), broken(tmp_path, 'truncated_body')
    code, out, err = tool('--stream', bad, '--checkpoint', checkpoint, '--every', 2)
    assert (code, err.count('\n')) == (1, 1)
    assert err.startswith(f'error: {bad}: truncated: ')
    *rows, last = out.splitlines()[1:]
    assert [int(row.split()[0]) for row in rows[:2]] == [2, 4]
    assert f': {rows[-1].split()[0]} frames, ' in last
    *rows, error = stream(load_classifier(checkpoint=checkpoint), str(bad))
    assert isinstance(error, BrokenVideo)
    assert all(isinstance(row, StreamPrediction) for row in rows)


@pytest.mark.parametrize('kind', ['empty', 'text', 'sound', 'missing', 'pipe'])
def test_a_broken_stream_is_one_line(tool, tmp_path, kind):
    code, out, err = tool('--stream', broken(tmp_path, kind), '--checkpoint', save(tmp_path / 'best.pth', CAUSAL))
    assert (code, out, err.count('\n')) == (1, '', 1)
    assert err.startswith(f'error: {tmp_path / kind}.mp4: ')


def test_a_stream_that_cannot_be_is_one_line(tool, tmp_path):
    Image.new('RGB', (32, 32)).save(image := tmp_path / 'a.png')
    file, causal, clips = movie(tmp_path / 'a.mp4', 8), save(tmp_path / 'a.pth', CAUSAL), save(tmp_path / 'b.pth')
    backward = save(tmp_path / 'c.pth', CAUSAL, time='backward')
    long = save(tmp_path / 'd.pth', CAUSAL, {'tubelet_size': 4}, sampling='dense', frame_interval=3)
    for arguments, ended, message in [
        (('--stream', image, '--checkpoint', causal), 1, f'{image}: an image, but {CAUSAL} labels videos'),
        (('--stream', tmp_path, '--checkpoint', causal), 1, f'{tmp_path}: a folder'),
        (('--stream', file, '--checkpoint', long), 1, f'{file}: 8 frames; one patch needs 10'),
        (('--stream', file, '--checkpoint', clips), 2, 'test_videomamba takes whole clips: a stream of frames needs'),
        (
            ('--stream', file, '--checkpoint', backward),
            2,
            'was trained on frames backward: those of a stream run forward',
        ),
        (('--stream', file, '--model', CAUSAL), 2, 'has no published weights: give --checkpoint FILE'),
        (('--stream', file, '--checkpoint', causal, file), 2, '--stream: takes one video'),
        (('--stream', file, '--checkpoint', causal, '--views', 2, 1), 2, '--views: a stream has none: leave it out'),
        (('--stream', file, '--checkpoint', causal, '--batch-size', 2), 2, '--batch-size: a stream has none'),
        ((file, '--checkpoint', clips, '--every', 2), 2, '--every: of --stream alone: leave it out'),
        (
            (file, '--checkpoint', clips, '--views', 0, 3),
            2,
            '--views: expected at least 1 clip, and 1 or 3 crops, got 0 3',
        ),
        (
            (file, '--checkpoint', clips, '--views', 2, 2),
            2,
            '--views: expected at least 1 clip, and 1 or 3 crops, got 2 2',
        ),
        (('--stream', file, '--checkpoint', causal, '--every', 0), 2, '--every: expected an integer >= 1, got 0'),
    ]:
        code, _, err = tool(*arguments)
        assert (code, err.count('\n')) == (ended, 1), err
        assert message in err


def test_weights_that_are_not_finite_are_not_believed(tmp_path):
    classifier = load_classifier(checkpoint=save(tmp_path / 'best.pth', CAUSAL))
    torch.nn.init.constant_(classifier.model.get_classifier().bias, float('nan'))
    with pytest.raises(UsageError, match='not finite'):
        list(stream(classifier, write(tmp_path / 'a.mp4')))


def test_what_training_writes_labels_and_streams(tool, tmp_path, capsys):
    """A video of as many frames as the model's clips is the same to both."""
    for i, part in enumerate(['train/wave', 'train/walk', 'val/wave', 'val/walk']):
        (folder := tmp_path / part).mkdir(parents=True)
        for j in range(2):
            movie(folder / f'{j}.mp4', 6 + i + j)
    config = tmp_path / 'causal.py'
    config.write_text(f"""
task = dict(name='video')
model = dict(name='{CAUSAL}', img_size=32, depth=2)
data = dict(name='video_folder', root='{tmp_path}', batch_size=2, workers=0)
schedule = dict(epochs=1, warmup_epochs=0)
run = dict(device='cpu', tensorboard=False)
""")
    assert train(config, work_dir=tmp_path / 'run') == 0
    capsys.readouterr()
    file, checkpoint = movie(tmp_path / 'a.mp4', 4), tmp_path / 'run' / 'best.pth'
    code, out, err = tool(file, '--checkpoint', checkpoint, '--json', '-')
    assert (code, err) == (0, '')
    label = json.loads(out)['videos'][0]['predictions'][0]
    code, out, err = tool('--stream', file, '--checkpoint', checkpoint, '--json', '-')
    assert (code, err) == (0, '')
    (row,) = json.loads(out)['predictions']
    assert row['class'] == label['class']
    assert label['class'] in ('walk', 'wave')
    assert row['score'] == pytest.approx(label['score'], abs=1e-5)


STREAM = """
import subprocess
import sys
from vimamba.memory import peak_memory
from vimamba.tasks.predict.classify import load_classifier
from vimamba.tasks.predict.stream import stream
rows = stream(load_classifier(checkpoint=sys.argv[1]), sys.argv[2])
print(*(f'{row.frames} {peak_memory()} {row.score} {row.index}' for row in rows), sep='\\n')
"""


@pytest.mark.slow
def test_256_frames_take_the_memory_of_16_and_score_as_one_clip(tmp_path):
    """The peak of the whole process, decoding included; the file, decoded, is 59 MB."""
    options = {'depth': 6, 'embed_dim': 192}
    checkpoint, file = save(tmp_path / 'best.pth', CAUSAL, options), movie(tmp_path / 'a.mp4', 256, (320, 240))
    done = subprocess.run([sys.executable, '-c', STREAM, checkpoint, file], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    memory = {int(frames): float(mib) for frames, mib, *_ in rows}
    assert list(memory) == list(range(16, 257, 16))
    assert memory[256] <= 1.01 * memory[16]
    with torch.inference_mode():
        scores = small(CAUSAL, **options)(transform()(read_clip(file, range))[None]).softmax(1)[0]
    assert int(rows[-1][3]) == int(scores.argmax())
    assert float(rows[-1][2]) == pytest.approx(float(scores.max()), abs=1e-5)


def test_the_page_takes_frames_from_anywhere(tmp_path, capsys):
    blocks = re.findall(r'```py\n(.*?)```', (TOOL.parents[1] / 'docs' / 'video.md').read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if 'camera' in block)
    checkpoint = str(save(tmp_path / 'causal.pth', CAUSAL, num_crops=3))
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 56, 3), np.uint8)
    known = {'camera': frames, 'torch': torch}
    exec(example.replace('runs/NAME/best.pth', checkpoint), known)
    with torch.inference_mode():
        want = known['classifier'].model(known['classifier'].transform(frames).unsqueeze(0))
    torch.testing.assert_close(known['scores'], want)
    assert capsys.readouterr().out.splitlines()[-1] == CLASSES[want.argmax()]
