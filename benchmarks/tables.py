"""Generates the tables of README.md, docs/ and model_cards/ from the results files in benchmarks/.

    python benchmarks/tables.py            # rewrite stale tables
    python benchmarks/tables.py --check    # only report them; exit code 1 if there are any
    python benchmarks/tables.py --plot     # also redraw scaling.png and frames.png

A table is the text between ``<!-- table: NAME [ARGUMENTS] -->`` and ``<!-- end -->``.
"""

import argparse
import csv
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LABELS = {'vim_nano': 'Vim nano (`vim_nano_patch4_32`)', 'vit': 'ViT of the same size', 'svm': 'RBF-SVM on the pixels'}


def rows(name: str) -> list[dict[str, str]]:
    """Reads a CSV file of benchmarks/; a missing file has no rows."""
    file = ROOT / 'benchmarks' / name
    if not file.exists():
        return []
    with open(file, newline='') as lines:
        return list(csv.DictReader(lines))


def markdown(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ['---'] * len(header), *body]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def latest(results: list[dict[str, str]], *keys: str) -> list[dict[str, str]]:
    """The last row of each combination of ``keys``."""
    return list({tuple(row[key] for key in keys): row for row in results}.values())


def models(*patterns: str) -> str:
    """All variants that match ``patterns``: published accuracy and weights, measured cost."""
    import timm

    import vimamba  # noqa: F401  (registers the models)
    from vimamba.models import input_shape
    from vimamba.profile.flops import count_gflops

    published = {row['model']: row for row in rows('published.csv')}
    timed = {row['implementation']: row for row in measured('model') if row['case'] == '224 px'}
    body = []
    for name in sorted({name for pattern in patterns for name in timm.list_models(pattern)}):
        model = timm.create_model(name, device='meta')
        cfg = model.pretrained_cfg
        row = published.get(name, defaultdict(str))
        accuracy = ' / '.join(filter(None, (row['top1'], row['top5'])))
        parameters = sum(p.numel() for p in model.parameters())
        gflops = f'{count_gflops(model, (1, *input_shape(model))):.2f}'
        time = f'{float(timed[name]["median_ms"]):.0f}' if name in timed else ''
        licence = cfg['license'] if cfg.get('url') else ''
        cells = [
            f'{parameters:,}',
            'x'.join(map(str, input_shape(model)[1:])),
            gflops,
            time,
            f'{accuracy} on {row["on"]}' if accuracy else '',
            row['published_by'],
            row['file'],
            licence,
        ]
        body.append([f'`{name}`', *cells])
    header = [
        'model', 'parameters', 'input', 'GFLOPs', 'CPU, ms', 'top-1 / top-5', 'published by', 'weights', 'licence',
    ]  # fmt: skip
    notes = 'Input: height x width, for clips frames x height x width. GFLOPs: one input; a multiply-add counts as one '
    notes += 'operation, a scan as 9 per token, channel and state.'
    if timed:
        notes += f' CPU: one 224x224 image. {machine(list(timed.values()))}'
    return f'{markdown(header, body)}\n\n{notes}'


FAMILIES = {  # family -> patterns of names, layout, scan orders, paper, card
    'Vim': (('vim_*',), 'isotropic', 'raster, both directions', '2401.09417', 'vim'),
    'VMamba': (('vmamba_*',), '4 stages', 'raster and column, both directions', '2401.10166', 'vmamba'),
    'MambaVision': (('mambavision_*',), '4 stages', 'raster in windows, then attention', '2407.08083', 'mambavision'),
    'LocalMamba': (('local_vim_*', 'local_vmamba_*'), 'as Vim and VMamba', 'rows, columns, windows, searched per layer',
                   '2403.09338', 'local_mamba'),
    'PlainMamba': (('plain_mamba_*',), 'isotropic', 'four snakes with direction codes', '2403.17695', 'plain_mamba'),
    'EfficientVMamba': (('efficient_vmamba_*',), '4 stages', 'four strided sub-grids, then convolutions', '2403.09977',
                        'efficient_vmamba'),
    'VideoMamba': (('videomamba_*',), 'isotropic; images, clips', 'frame by frame, both directions', '2403.06977',
                   'videomamba'),
    'Mamba-ND': (('mamba_nd_2d_*', 'mamba_nd_3d_*'), 'isotropic; images, clips', 'one axis and direction per layer',
                 '2402.05892', 'mamba_nd'),
}  # fmt: skip


def families() -> str:
    """One row per family."""
    import timm

    import vimamba  # noqa: F401  (registers the models)

    published = {row['model']: float(row['top1']) for row in rows('published.csv') if row['on'] == 'ImageNet-1k'}
    body = []
    for family, (patterns, layout, order, paper, card) in FAMILIES.items():
        carded = {row['model'] for row in rows('published.csv')}
        names = sorted({name for pattern in patterns for name in timm.list_models(pattern) if name in carded})
        sizes = sorted(sum(p.numel() for p in timm.create_model(name, device='meta').parameters()) for name in names)
        accuracy = sorted(published[name] for name in names if name in published)
        body.append([
            f'[{family}](model_cards/{card}.md)', f'[{paper}](https://arxiv.org/abs/{paper})', f'{len(names)}', layout,
            order, f'{sizes[0] / 1e6:.0f}-{sizes[-1] / 1e6:.0f} M', f'{accuracy[0]}-{accuracy[-1]}',
        ])  # fmt: skip
    header = ['family', 'paper', 'variants', 'layout', 'scan order', 'parameters', 'ImageNet-1k top-1']
    return markdown(header, body)


def pairs() -> str:
    """Whole models and their usual alternatives."""
    results = [row for row in measured('model') if row['direction'] == 'forward']
    times = by_case(results, 'forward')
    body = []
    for case, ours, theirs in (
        ('224 px', 'vmamba_tiny_s1l8', 'swin_tiny_patch4_window7_224'),
        ('512 px', 'vmamba_tiny_s1l8', 'swin_tiny_patch4_window7_224'),
        ('224 px', 'vmamba_tiny_s2l5', 'swin_tiny_patch4_window7_224'),
        ('512 px', 'vmamba_tiny_s2l5', 'swin_tiny_patch4_window7_224'),
        ('224 px', 'mambavision_tiny', 'convnext_tiny'),
    ):
        if ours in times[case] and theirs in times[case]:
            here = [times[case].get(name, 0.0) for name in (ours, theirs, f'{theirs}, our dense layers')]
            body.append([f'{ours}, {case}', theirs, *(f'{ms:.0f}' if ms else '' for ms in here)])
    return markdown(['model', 'baseline', 'model, ms', 'baseline, ms', 'baseline with our dense layers, ms'], body)


def digits() -> str:
    """Accuracy on digits: three seeds and 5-fold cross-validation."""
    results = latest(rows('digits.csv'), 'protocol', 'model', 'seed', 'fold')
    groups = defaultdict(list)
    for row in results:
        groups[row['protocol'], row['model']].append(row)
    body = []
    for (protocol, model), group in sorted(
        groups.items(), key=lambda item: (item[0][0] != 'seeds', item[0][1] != 'vim_nano')
    ):
        top1 = [float(row['top1']) for row in group]
        how = f'{len(group)} seeds, fixed split' if protocol == 'seeds' else f'{len(group)}-fold'
        seconds = [float(row['train_seconds']) for row in group if row['train_seconds']]
        size = f'{int(group[0]["params"]):,}' if group[0]['params'] else ''
        took = f'{statistics.median(seconds):.0f} s' if seconds else ''
        images = group[0]['test_images'] if protocol == 'seeds' else str(sum(int(row['test_images']) for row in group))
        cells = [f'{statistics.mean(top1):.2f}', f'{min(top1):.2f}', images, took]
        body.append([LABELS[model], how, size, *cells])
    table = markdown(
        ['model', 'protocol', 'parameters', 'mean top-1', 'minimum', 'test images', 'median training time'], body
    )
    if not results:
        return table
    last = results[-1]
    where = f'{last["cpu"]}, torch {last["torch"]}, Python {last["python"]}, {last["date"]}'
    return f'{table}\n\nTwo runs in parallel, {last["threads"]} thread each: {where}.'


def scenes() -> str:
    """Test metrics of the four `make` targets on digit scenes."""
    results = rows('scenes.csv')
    body = []
    for row in results:
        figures = [row[name] for name in ('AP', 'AP50', 'mask_AP', 'mask_AP50', 'mIoU')]
        took = f'{int(row["train_seconds"]) / 60:.0f} min, {int(row["memory_mib"]) / 1024:.1f} GiB'
        body.append(
            [f'`make {row["target"]}`', row['head'], row['backbone'], f'{row["parameters_m"]} M', *figures, took]
        )
    header = ['', 'head', 'backbone', 'parameters', 'AP', 'AP50', 'mask AP', 'mask AP50', 'mIoU', 'training']
    if not results:
        return markdown(header, body)
    last = results[-1]
    dates, versions = (' and '.join(sorted({row[key] for row in results})) for key in ('date', 'torch'))
    where = f'{last["threads"]} threads of {last["cpu"]}, torch {versions}, {dates}'
    return f'{markdown(header, body)}\n\n{last["test_images"]} test scenes, weights of the last epoch: {where}.'


def moving_digits() -> str:
    """What models learn of the order of frames, and what a baseline finds without it."""
    (row,) = rows('moving_digits.csv')
    body = [
        ['digit and direction of a clip (80 classes)', f'{row["top1"]} %', '1.25 %'],
        ['the same, causal model', f'{row["causal_top1"]} %', '1.25 %'],
        ['direction of a reversed clip, which is the opposite one', f'{row["reversed_direction"]} %', '12.5 %'],
        ['direction or its opposite, trained and tested on shuffled frames', f'{row["shuffled_sense"]} %', '50 %'],
        ['direction from the shift of the centroid, without training', f'{row["centroid_direction"]} %', '12.5 %'],
    ]
    took = f'{int(row["train_seconds"]) / 60:.0f} min and {int(row["memory_mib"]) / 1024:.1f} GiB'
    notes = (
        f'{row["clips"]} test clips of unseen digits, weights of the last epoch. {row["parameters_m"]} M parameters; '
    )
    notes += f'training takes {took} on {row["threads"]} threads of {row["cpu"]}, torch {row["torch"]}, {row["date"]}.'
    return f'{markdown(["", "accuracy", "chance"], body)}\n\n{notes}'


HEADS = {'faster_rcnn': 'Faster R-CNN', 'mask_rcnn': 'Mask R-CNN', 'upernet': 'UPerNet'}


def summary() -> str:
    """One row per task: what `make` trains, its test metric and its training time."""
    seeds = [row for row in rows('digits.csv') if (row['protocol'], row['model']) == ('seeds', 'vim_nano')]
    seeds = latest(seeds, 'seed')
    top1 = statistics.mean(float(row['top1']) for row in seeds)
    seconds = statistics.median(float(row['train_seconds']) for row in seeds)
    size = f'{int(seeds[0]["params"]) / 1e6:.2f} M'
    body = [['classification', '`make demo`', 'Vim', size, f'{top1:.2f} % top-1', f'{seconds:.0f} s']]
    scenes_of = {row['target']: row for row in rows('scenes.csv')}
    for task, target, column, metric in (
        ('detection', 'detection', 'AP', 'box AP'),
        ('instance segmentation', 'instances', 'mask_AP', 'mask AP'),
        ('semantic segmentation', 'segmentation', 'mIoU', 'mIoU'),
    ):
        row = scenes_of[target]
        cells = [f'{HEADS[row["head"]]} on VMamba', f'{row["parameters_m"]} M', f'{row[column]} {metric}']
        body.append([task, f'`make {target}`', *cells, f'{int(row["train_seconds"]) / 60:.0f} min'])
    (row,) = rows('moving_digits.csv')
    cells = [f'{row["parameters_m"]} M', f'{row["top1"]} % top-1', f'{int(row["train_seconds"]) / 60:.0f} min']
    body.append(['video', '`make video`', 'VideoMamba', *cells])
    table = markdown(['task', 'command', 'model', 'parameters', 'test result', 'training time'], body)
    return (
        f'{table}\n\n{row["threads"]} threads of {row["cpu"]}; '
        f'`make demo`: {seeds[0]["threads"]} thread, mean of {len(seeds)} seeds.'
    )


def measured(what: str) -> list[dict[str, str]]:
    """The last measurement of each case on one CPU thread in float32; for models, of one image."""
    kind = (what, 'CPU time', 'float32')
    of_kind = [row for row in rows('results.csv') if (row['what'], row['clock'], row['dtype']) == kind]
    one = [row for row in of_kind if what == 'scan' or row['batch'] == '1']  # the case of a scan says its batch
    return latest(one, 'case', 'implementation', 'direction')


def machine(results: list[dict[str, str]]) -> str:
    """A sentence: what was measured, where and when."""
    dates, devices, torch = (' and '.join(sorted({row[key] for row in results})) for key in ('date', 'device', 'torch'))
    return f'Median CPU time of one thread, float32: {devices}, torch {torch}, {dates}.'


def by_case(results: list[dict[str, str]], direction: str) -> dict[str, dict[str, float]]:
    """case -> implementation -> milliseconds."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in results:
        if row['direction'] == direction:
            times[row['case']][row['implementation']] = float(row['median_ms'])
    return times


def scans() -> str:
    """Times of one layer's scans, by backend."""
    results, body = measured('scan'), []
    names = ('cpu', 'portable', 'state-spaces loop')
    trained = by_case(results, 'forward + backward')
    for case, forward in by_case(results, 'forward').items():
        cells = [case]
        for times in (forward, trained[case]):
            cells += [f'{times[name]:.3g}' if name in times else '' for name in names]
        body.append(cells)
    header = ['scans of one layer, ms', *(f'{name}, {what}' for what in ('forward', '+ backward') for name in names)]
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def resolutions() -> str:
    """Times of one image, by its size."""
    names = ['vim_tiny_patch16_224', 'deit_tiny_patch16_224', 'deit_tiny_patch16_224, our dense layers']
    results = [row for row in measured('model') if row['direction'] == 'forward' and row['implementation'] in names]
    body = [
        [case, *(f'{times[name]:.0f}' if name in times else '' for name in names)]
        for case, times in sorted(by_case(results, 'forward').items(), key=lambda item: int(item[0].split()[0]))
    ]
    table = markdown(['one image, ms', *names], body)
    return f'{table}\n\n{machine(results)}' if results else table


def draw_scaling() -> None:
    """Plots time against tokens into benchmarks/scaling.png."""
    from vimamba.visualize.plots import plot_scaling

    models_at = defaultdict(list)
    for row in measured('model'):
        if row['direction'] == 'forward' and row['implementation'].startswith(('vim_tiny', 'deit_tiny')):
            models_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    scans_at = defaultdict(list)
    for row in measured('scan'):
        if row['case'].startswith('vim_tiny') and row['batch'] == '1' and row['direction'] == 'forward':
            scans_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    panels = {'Whole model, one image': models_at, 'Scans of one Vim-T layer': scans_at}
    plot_scaling(panels, ROOT / 'benchmarks' / 'scaling.png')


CLIP_MODELS = ('videomamba_tiny_patch16_224_f8', 'joint space-time ViT-T')


def clips_of(direction: str) -> list[dict[str, str]]:
    """Measured clips of 224 pixels, sorted by length."""
    results = [row for row in measured('clip') if row['direction'] == direction and row['case'].endswith('224 px')]
    return sorted(results, key=lambda row: int(row['tokens']))


def clips() -> str:
    """Time and memory of a clip, by its frames."""
    results, body = clips_of('forward'), []
    for case in dict.fromkeys(row['case'] for row in results):
        found = {row['implementation']: row for row in results if row['case'] == case}
        row = [case.split()[0], f'{int(found[CLIP_MODELS[0]]["tokens"]):,}']
        row += [f'{float(found[name]["median_ms"]):,.0f}' for name in CLIP_MODELS]
        body.append(row + [f'{int(found[name]["memory_mib"]):,}' for name in CLIP_MODELS])
    header = ['frames', 'tokens', *(f'{name}, {unit}' for unit in ('ms', 'MiB') for name in ('VideoMamba-Ti', 'ViT-T'))]
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def clip_training() -> str:
    """Time and memory of training on a long clip, with and without recomputation."""
    results = clips_of('forward + backward')
    body = [
        [row['case'].split()[0], (row['implementation'].partition(', ')[2] or 'all kept'),
         f'{float(row["median_ms"]) / 1e3:.1f}', f'{int(row["memory_mib"]):,}'] for row in results
    ]  # fmt: skip
    header = ['frames', 'activations', 'forward and backward, s', 'peak memory, MiB']
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def stream() -> str:
    """Memory and speed of a stream."""
    results = rows('stream.csv')
    body = [[row['frames'], row['memory_mib'], row['frames_per_second']] for row in results]
    table = markdown(['frames so far', 'peak memory, MiB', 'frames per second'], body)
    if not results:
        return table
    last = results[-1]
    what = (
        f'`{last["model"]}` on a {last["video"]} video, decoding included. The scores differ from those of the whole '
    )
    what += f'clip by {float(last["difference"]):.0e} (relative L2).'
    return f'{table}\n\n{what} One thread of {last["cpu"]}, torch {last["torch"]}, {last["date"]}.'


def draw_frames() -> None:
    """Plots time and memory against frames into benchmarks/frames.png."""
    from vimamba.visualize.plots import plot_scaling

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, column in (('One clip, one thread', 'median_ms'), ('Peak memory of the process', 'memory_mib')):
        panels[title] = defaultdict(list)
        for row in clips_of('forward'):
            if row['implementation'] in CLIP_MODELS:
                name = row['implementation'].removesuffix('_f8')
                panels[title][name].append((int(row['case'].split()[0]), float(row[column])))
    plot_scaling(panels, ROOT / 'benchmarks' / 'frames.png', 'frames', ('ms', 'MiB'))


def cross() -> str:
    """The cross scan as text."""
    from vimamba.scans import create_order
    from vimamba.scans.draw import picture

    return f'```\n{picture(create_order("cross", (3, 4)))}\n```'


TABLES = {
    'models': models,
    'families': families,
    'summary': summary,
    'pairs': pairs,
    'digits': digits,
    'scenes': scenes,
    'moving_digits': moving_digits,
    'cross': cross,
    'scans': scans,
    'resolutions': resolutions,
    'clips': clips,
    'clip_training': clip_training,
    'stream': stream,
}


def render(text: str) -> str:
    """Replaces every table of a page by a new one."""

    def table(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        return f'{match[1]}\n{TABLES[name](*arguments)}\n{match[3]}'

    return re.sub(r'(<!-- table: ([^>]+) -->)\n.*?(<!-- end -->)', table, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit with 1 if a table is stale')
    parser.add_argument('--plot', action='store_true', help='also redraw benchmarks/scaling.png and frames.png')
    args = parser.parse_args()
    check = args.check
    if args.plot:
        draw_scaling()
        draw_frames()
    stale = []
    for file in (ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')), *sorted(ROOT.glob('model_cards/*.md'))):
        text = file.read_text()
        if (new := render(text)) != text:
            stale.append(file.name)
            if not check:
                file.write_text(new)
    print(f'{"stale" if check else "rewritten"}: {", ".join(stale)}' if stale else 'all tables are up to date')
    return int(check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
