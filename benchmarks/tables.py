"""Writes the tables of the README from results files: python benchmarks/tables.py [--check]

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; --check says what is stale and changes nothing.
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
    """Every variant whose name fits, with what its authors publish and what was measured here."""
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
        'model', 'parameters', 'input', 'GFLOPs', 'CPU, ms', 'top-1 / top-5', 'published by', 'weights',
        'their licence',
    ]  # fmt: skip
    notes = 'GFLOPs of one input (of a clip, its frames stand first), a multiply-add as one, the scans counted (9 per '
    notes += 'token, channel and state).'
    if timed:
        notes += f' CPU: one image of 224x224, {machine(list(timed.values()))}'
    return f'{markdown(header, body)}\n\n{notes}'


FAMILIES = {  # family -> names, what reads the map how, paper, card
    'Vim': (('vim_*',), 'tokens there and back, class token in the middle', '2401.09417', 'vim'),
    'VMamba': (('vmamba_*',), 'pyramid; rows and columns there and back', '2401.10166', 'vmamba'),
    'MambaVision': (('mambavision_*',), 'pyramid of convolutions, then scans and attention in windows', '2407.08083',
                    'mambavision'),
    'LocalMamba': (('local_vim_*', 'local_vmamba_*'), 'Vim and VMamba with rows, columns, windows, searched by layer',
                   '2403.09338', 'local_mamba'),
    'PlainMamba': (('plain_mamba_*',), 'flat; four snakes that know where they come from', '2403.17695', 'plain_mamba'),
    'EfficientVMamba': (('efficient_vmamba_*',), 'pyramid; four sub-grids, then convolutions', '2403.09977',
                        'efficient_vmamba'),
    'VideoMamba': (('videomamba_*',), 'clips, frame after frame, there and back; images as Vim', '2403.06977',
                   'videomamba'),
    'Mamba-ND': (('mamba_nd_2d_*', 'mamba_nd_3d_*'), 'one way a block: rows, columns, in clips time, there and back',
                 '2402.05892', 'mamba_nd'),
}  # fmt: skip


def families() -> str:
    """One line for every family."""
    import timm

    import vimamba  # noqa: F401  (registers the models)

    published = {row['model']: float(row['top1']) for row in rows('published.csv') if row['on'] == 'ImageNet-1k'}
    body = []
    for family, (patterns, how, paper, card) in FAMILIES.items():
        carded = {row['model'] for row in rows('published.csv')}
        names = sorted({name for pattern in patterns for name in timm.list_models(pattern) if name in carded})
        sizes = sorted(sum(p.numel() for p in timm.create_model(name, device='meta').parameters()) for name in names)
        accuracy = sorted(published[name] for name in names if name in published)
        body.append([
            f'[{family}](model_cards/{card}.md)', f'{len(names)}', how, f'{sizes[0] / 1e6:.0f}-{sizes[-1] / 1e6:.0f} M',
            f'{accuracy[0]}-{accuracy[-1]}', f'[{paper}](https://arxiv.org/abs/{paper})',
        ])  # fmt: skip
    header = ['family', 'published variants', 'reads', 'parameters', 'ImageNet-1k top-1 its authors publish', 'paper']
    return markdown(header, body)


def pairs() -> str:
    """Whole models beside what a user would pick instead."""
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
    return markdown(['ours', 'theirs', 'ours, ms', 'theirs, ms', 'theirs with our dense layers, ms'], body)


def digits() -> str:
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
        took = f'{statistics.median(seconds):.0f} s, {group[0]["threads"]} thread(s)' if seconds else ''
        images = group[0]['test_images'] if protocol == 'seeds' else str(sum(int(row['test_images']) for row in group))
        cells = [f'{statistics.mean(top1):.2f}', f'{min(top1):.2f}', images, took]
        body.append([LABELS[model], how, size, *cells])
    table = markdown(
        ['model', 'protocol', 'parameters', 'mean top-1', 'lowest', 'test images', 'training, median'], body
    )
    if not results:
        return table
    last = results[-1]
    machine = f'{last["cpu"]}, torch {last["torch"]}, Python {last["python"]}'
    return f'{table}\n\nTwo runs side by side. Measured {last["date"]} on {machine}.'


def scenes() -> str:
    """What the four `make` targets reach on the test scenes."""
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
    where = f'{last["threads"]} threads of {last["cpu"]}, torch {versions}'
    return f'{markdown(header, body)}\n\n{last["test_images"]} test scenes, last weights, {dates}, {where}.'


def moving_digits() -> str:
    """What a model trained on moving digits reads of the order of time, and what can be told without one."""
    (row,) = rows('moving_digits.csv')
    body = [
        ['class of a clip, digit and direction', f'{row["top1"]} %', '1.25 %'],
        ['the same, by a causal model, which takes frames as they come', f'{row["causal_top1"]} %', '1.25 %'],
        ['direction of a clip shown backwards, which is the opposite', f'{row["reversed_direction"]} %', '12.5 %'],
        ['which of the two senses, by a model trained on shuffled clips', f'{row["shuffled_sense"]} %', '50 %'],
        [
            'direction by the shift of the centroid of what moves, no training',
            f'{row["centroid_direction"]} %',
            '12.5 %',
        ],
    ]
    took = f'{int(row["train_seconds"]) / 60:.0f} min, {int(row["memory_mib"]) / 1024:.1f} GiB'
    notes = (
        f'{row["clips"]} test clips of digits never seen, last weights; {row["parameters_m"]} M parameters, trained in'
    )
    notes += f' {took} by {row["threads"]} threads of {row["cpu"]}, torch {row["torch"]}, {row["date"]}.'
    return f'{markdown(["", "right", "by chance"], body)}\n\n{notes}'


def measured(what: str) -> list[dict[str, str]]:
    """The last measurement of everything of one kind on the CPU, by one thread, in float32; of models, of one image."""
    kind = (what, 'CPU time', 'float32')
    of_kind = [row for row in rows('results.csv') if (row['what'], row['clock'], row['dtype']) == kind]
    one = [row for row in of_kind if what == 'scan' or row['batch'] == '1']  # a case of scans has a batch of its own
    return latest(one, 'case', 'implementation', 'direction')


def machine(results: list[dict[str, str]]) -> str:
    dates, devices, torch = (' and '.join(sorted({row[key] for row in results})) for key in ('date', 'device', 'torch'))
    return f'CPU time of one thread, medians, {dates}, {devices}, torch {torch}, float32.'


def by_case(results: list[dict[str, str]], direction: str) -> dict[str, dict[str, float]]:
    """case -> implementation -> milliseconds."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in results:
        if row['direction'] == direction:
            times[row['case']][row['implementation']] = float(row['median_ms'])
    return times


def scans() -> str:
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
    names = ['vim_tiny_patch16_224', 'deit_tiny_patch16_224', 'deit_tiny_patch16_224, our dense layers']
    results = [row for row in measured('model') if row['direction'] == 'forward' and row['implementation'] in names]
    body = [
        [case, *(f'{times[name]:.0f}' if name in times else '' for name in names)]
        for case, times in sorted(by_case(results, 'forward').items(), key=lambda item: int(item[0].split()[0]))
    ]
    table = markdown(['one image, ms', *names], body)
    return f'{table}\n\n{machine(results)}' if results else table


def draw_scaling() -> None:
    """Time against resolution and against length, as benchmarks/scaling.png."""
    from vimamba.visualize.plots import plot_scaling

    models_at = defaultdict(list)
    for row in measured('model'):
        if row['direction'] == 'forward' and row['implementation'].startswith(('vim_tiny', 'deit_tiny')):
            models_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    scans_at = defaultdict(list)
    for row in measured('scan'):
        if row['case'].startswith('vim_tiny') and row['batch'] == '1' and row['direction'] == 'forward':
            scans_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    panels = {'whole models, one image': models_at, 'the scan of one layer of Vim-T': scans_at}
    plot_scaling(panels, ROOT / 'benchmarks' / 'scaling.png')


CLIP_MODELS = ('videomamba_tiny_patch16_224_f8', 'joint space-time ViT-T')


def clips_of(direction: str) -> list[dict[str, str]]:
    """Measured clips of 224 pixels, by their frames."""
    results = [row for row in measured('clip') if row['direction'] == direction and row['case'].endswith('224 px')]
    return sorted(results, key=lambda row: int(row['tokens']))


def clips() -> str:
    """Time and memory against frames."""
    results, body = clips_of('forward'), []
    for case in dict.fromkeys(row['case'] for row in results):
        found = {row['implementation']: row for row in results if row['case'] == case}
        row = [case.split()[0], f'{int(found[CLIP_MODELS[0]]["tokens"]):,}']
        row += [f'{float(found[name]["median_ms"]):,.0f}' for name in CLIP_MODELS]
        body.append(row + [f'{int(found[name]["memory_mib"]):,}' for name in CLIP_MODELS])
    header = ['frames', 'tokens', *(f'{name}, {unit}' for unit in ('ms', 'MiB') for name in ('VideoMamba-Ti', 'ViT-T'))]
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def clip_training() -> str:
    """What forward and backward of a long clip takes in each way."""
    results = clips_of('forward + backward')
    body = [
        [row['case'].split()[0], (row['implementation'].partition(', ')[2] or 'all at once'),
         f'{float(row["median_ms"]) / 1e3:.1f}', f'{int(row["memory_mib"]):,}'] for row in results
    ]  # fmt: skip
    header = ['frames', 'activations', 'forward and backward, s', 'peak memory of the process, MiB']
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def stream() -> str:
    """Memory of a stream."""
    results = rows('stream.csv')
    body = [[row['frames'], row['memory_mib'], row['frames_per_second']] for row in results]
    table = markdown(['frames so far', 'peak memory of the process, MiB', 'frames a second'], body)
    if not results:
        return table
    last = results[-1]
    what = f'`{last["model"]}` on a video of {last["video"]} pixels, decoding included; the scores differ from '
    what += f'those of all frames at once by {float(last["difference"]):.0e} in relative L2.'
    return f'{table}\n\n{what} One thread of {last["cpu"]}, torch {last["torch"]}, {last["date"]}.'


def draw_frames() -> None:
    """Time and memory against frames, as benchmarks/frames.png."""
    from vimamba.visualize.plots import plot_scaling

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, column in (('one clip, one thread', 'median_ms'), ('peak memory of the process', 'memory_mib')):
        panels[title] = defaultdict(list)
        for row in clips_of('forward'):
            if row['implementation'] in CLIP_MODELS:
                name = row['implementation'].removesuffix('_f8')
                panels[title][name].append((int(row['case'].split()[0]), float(row[column])))
    plot_scaling(panels, ROOT / 'benchmarks' / 'frames.png', 'frames', ('ms', 'MiB'))


def cross() -> str:
    from vimamba.scans import create_order
    from vimamba.scans.draw import picture

    return f'```\n{picture(create_order("cross", (3, 4)))}\n```'


TABLES = {
    'models': models,
    'families': families,
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
    def table(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        return f'{match[1]}\n{TABLES[name](*arguments)}\n{match[3]}'

    return re.sub(r'(<!-- table: ([^>]+) -->)\n.*?(<!-- end -->)', table, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit code 1 if a table is stale')
    parser.add_argument('--plot', action='store_true', help='also draw benchmarks/scaling.png and frames.png')
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
    print(f'{"stale" if check else "rewritten"}: {", ".join(stale)}' if stale else 'every table is up to date')
    return int(check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
