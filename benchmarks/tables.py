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


def models() -> str:
    import timm

    import vimamba  # noqa: F401  (registers the models)

    published = {row['model']: row for row in rows('published.csv')}
    body = []
    for name in timm.list_models('vim_*'):
        model = timm.create_model(name, device='meta')
        size = 'x'.join(map(str, model.patch_embed.img_size))
        row = published.get(name, defaultdict(str))
        accuracy = f'{row["top1"]} / {row["top5"]}' if row['top1'] else ''
        parameters = sum(p.numel() for p in model.parameters())
        body.append([f'`{name}`', f'{parameters:,}', size, accuracy, row['published_by'], row['file']])
    return markdown(['model', 'parameters', 'pixels', 'ImageNet-1k top-1 / top-5', 'published by', 'weights'], body)


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


def measured(what: str) -> list[dict[str, str]]:
    """The last measurement of everything of one kind on the CPU, by one thread."""
    of_kind = [row for row in rows('results.csv') if (row['what'], row['clock']) == (what, 'CPU time')]
    return latest(of_kind, 'case', 'implementation', 'direction', 'batch', 'dtype')


def machine(results: list[dict[str, str]]) -> str:
    last = results[-1]
    where = f'{last["device"]}, torch {last["torch"]}, {last["dtype"]}'
    return f'{last["clock"]} of one thread, medians, {last["date"]}, {where}.'


def by_case(results: list[dict[str, str]], direction: str) -> dict[str, dict[str, float]]:
    """case -> implementation -> milliseconds."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in results:
        if row['direction'] == direction:
            times[row['case']][row['implementation']] = float(row['median_ms'])
    return times


def scans() -> str:
    results, body = measured('scan'), []
    trained = by_case(results, 'forward + backward')
    for case, forward in by_case(results, 'forward').items():
        cells = [case]
        for times in (forward, trained[case]):
            cells += [
                f'{times[name]:.3g}' if name in times else '' for name in ('cpu', 'portable', 'state-spaces loop')
            ]
        body.append(cells)
    kinds = ['compiled', 'PyTorch', 'reference loop']
    header = [
        'scans of one layer, ms',
        *(f'{kind}, forward' for kind in kinds),
        *(f'{kind}, + backward' for kind in kinds),
    ]
    return f'{markdown(header, body)}\n\n{machine(results)}' if results else markdown(header, body)


def resolutions() -> str:
    results = [row for row in measured('model') if row['direction'] == 'forward']
    names = list(dict.fromkeys(row['implementation'] for row in results))
    body = [
        [case, *(f'{times[name]:.0f}' if name in times else '' for name in names)]
        for case, times in sorted(by_case(results, 'forward').items(), key=lambda item: int(item[0].split()[0]))
    ]
    table = markdown(['one image, ms', *names], body)
    return f'{table}\n\n{machine(results)}' if results else table


def draw_scaling() -> None:
    """Time against resolution and against length, as benchmarks/scaling.png."""
    from vimamba.insight.plots import plot_scaling

    models_at = defaultdict(list)
    for row in measured('model'):
        if row['direction'] == 'forward':
            models_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    scans_at = defaultdict(list)
    for row in measured('scan'):
        if row['case'].startswith('vim_tiny') and row['batch'] == '1' and row['direction'] == 'forward':
            scans_at[row['implementation']].append((int(row['tokens']), float(row['median_ms'])))
    panels = {'whole models, one image': models_at, 'the scan of one layer of Vim-T': scans_at}
    plot_scaling(panels, ROOT / 'benchmarks' / 'scaling.png')


def cross() -> str:
    from vimamba.scans import create_order
    from vimamba.scans.draw import picture

    return f'```\n{picture(create_order("cross", (3, 4)))}\n```'


TABLES = {'models': models, 'digits': digits, 'cross': cross, 'scans': scans, 'resolutions': resolutions}


def render(text: str) -> str:
    def table(match: re.Match[str]) -> str:
        return f'{match[1]}\n{TABLES[match[2]]()}\n{match[3]}'

    return re.sub(r'(<!-- table: (\w+) -->)\n.*?(<!-- end -->)', table, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit code 1 if a table is stale')
    parser.add_argument('--plot', action='store_true', help='also draw benchmarks/scaling.png')
    args = parser.parse_args()
    check = args.check
    if args.plot:
        draw_scaling()
    stale = []
    for file in (ROOT / 'README.md', *sorted((ROOT / 'model_cards').glob('*.md'))):
        text = file.read_text()
        if (new := render(text)) != text:
            stale.append(file.name)
            if not check:
                file.write_text(new)
    print(f'{"stale" if check else "rewritten"}: {", ".join(stale)}' if stale else 'every table is up to date')
    return int(check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
