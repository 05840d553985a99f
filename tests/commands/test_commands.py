"""Promises of the command `vimamba`: help without torch, the nearest name of a mistake, and the same calls by
`python -m` and by the files of tools/.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from vimamba.commands import COMMANDS, models
from vimamba.errors import UsageError

ROOT = Path(__file__).parents[2]
TOOLS = {'convert': 'convert_checkpoint'}
WITHOUT_TORCH = """
import sys
sys.argv = ['vimamba', *{arguments!r}]
sys.modules.update(dict.fromkeys(('torch', 'timm', 'mmengine', 'albumentations', 'matplotlib')))  # cannot be imported
from vimamba.commands import main
main()
"""


def vimamba(*arguments):
    return subprocess.run([sys.executable, '-m', 'vimamba', *arguments], cwd=ROOT, capture_output=True, text=True)


def without_torch(*arguments):
    code = WITHOUT_TORCH.format(arguments=arguments)
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',)], ids=str)
def test_the_commands_are_listed_without_torch(arguments):
    done = without_torch(*arguments)
    assert (done.returncode, done.stderr) == (0, '')
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith('  ')]
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(about.endswith('.') for _, about in lines)


@pytest.mark.parametrize('command', sorted({*COMMANDS} - {'draw'}))
def test_help_of_a_command_needs_no_torch_and_no_extra(command):
    done = without_torch(command, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: vimamba {command} ')


def test_mistakes_are_told_without_torch():
    done = without_torch('trian', 'no.py')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith("error: unknown command 'trian': did you mean 'train'? known: ")
    assert done.stderr.count('\n') == 1
    for arguments, said in {
        ('convert', 'a.pth', 'vim_tiny_patch16_224', 'a.pth'): 'expected a file name that ends in .safetensors',
        ('export', 'model.tflite'): 'expected a file name that ends in .onnx or .pt2',
        ('train', 'no.py'): 'training needs mmengine',
        ('benchmark', 'scan', '--batch', '2'): '--batch has no effect on scan',
    }.items():
        done = without_torch(*arguments)
        assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
        assert said in done.stderr


def test_the_module_is_the_command():
    done = vimamba('draw', 'windows2_reversed', '2x4')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == '7 6 3 2\n5 4 1 0\n'
    done = vimamba('predcit')
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert "did you mean 'predict'" in done.stderr


@pytest.mark.parametrize('command', sorted({*COMMANDS} - {'draw', 'models'}))
def test_a_file_of_tools_is_its_command(command, tmp_path):
    tool = ROOT / 'tools' / f'{TOOLS.get(command, command)}.py'
    done = subprocess.run([sys.executable, tool, '--help'], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: vimamba {command} ')


def test_models_are_those_of_vimamba_with_their_parameters(capsys):
    assert models.main(['vim_tiny*']) == 0
    assert capsys.readouterr().out.splitlines() == ['vim_tiny_patch16_224', 'vim_tiny_patch16_stride8_224']
    assert models.main(['vim_tiny_patch16_224', '--parameters']) == 0
    assert capsys.readouterr().out.split() == ['vim_tiny_patch16_224', '7.15', 'M']
    with pytest.raises(UsageError, match=r'^resnet50: no such model'):
        models.main(['resnet50'])


def test_a_command_registers_the_models():
    code = "import sys; sys.argv = ['vimamba', 'models', 'vim_tiny*']; import vimamba.commands as c; c.main()"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'vim_tiny_patch16_224\n' in done.stdout
