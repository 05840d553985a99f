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


def cross() -> str:
    from vimamba.scans import create_order
    from vimamba.scans.draw import picture

    return f'```\n{picture(create_order("cross", (3, 4)))}\n```'


TABLES = {'models': models, 'digits': digits, 'cross': cross}


def render(text: str) -> str:
    def table(match: re.Match[str]) -> str:
        return f'{match[1]}\n{TABLES[match[2]]()}\n{match[3]}'

    return re.sub(r'(<!-- table: (\w+) -->)\n.*?(<!-- end -->)', table, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit code 1 if a table is stale')
    check = parser.parse_args().check
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
