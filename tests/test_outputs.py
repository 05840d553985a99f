"""An output file is whole or what it was before: at a full disk, a failure and an interrupt; and a tool says which."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vimamba.errors import UsageError
from vimamba.export import export_program, save_program
from vimamba.outputs import naming, whole_file, write_json, write_text


def write_with_little_room(write, path, messages):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write(path)
    except UsageError as error:
        messages.put(str(error))


def picture(path):
    from vimamba.visualize.plots import plot_confusion

    plot_confusion(torch.eye(2), ['a', 'b'], path)


def program(path):
    save_program(export_program(torch.nn.Linear(40, 40), (torch.ones(1, 40),)), path)


WRITERS = {
    'text': lambda path: write_text(path, 'new' * 1000),
    'json': lambda path: write_json(path, ['new'] * 1000),
    'picture': picture,
    'program': program,
}


@pytest.mark.parametrize('writer', WRITERS)
def test_a_full_disk_leaves_what_was_there_and_is_told_with_its_name(tmp_path, writer):
    (path := tmp_path / 'a.out').write_text('old')
    messages = (context := multiprocessing.get_context('fork')).SimpleQueue()
    process = context.Process(target=write_with_little_room, args=(WRITERS[writer], path, messages))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert messages.get().startswith(f'{path}: cannot be written (File too large) after ')
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {'a.out': 'old'}


@pytest.mark.parametrize('error', [kind('of a caller') for kind in (KeyboardInterrupt, TypeError, UsageError)])
def test_what_fails_in_the_middle_leaves_nothing_and_is_told_as_it_is(tmp_path, error):
    (path := tmp_path / 'a.json').write_text('old')
    for place in (path, tmp_path / 'new' / 'er' / 'a.json'):
        said = pytest.raises(type(error), match=r'^of a caller$')
        with said, whole_file(place) as part:
            part.write_text('half')
            raise error
    assert [file.name for file in tmp_path.rglob('*')] == ['a.json']
    assert path.read_text() == 'old'


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'link.txt').symlink_to(tmp_path / 'there' / 'file.txt')
    write_text(tmp_path / 'link.txt', 'new')
    assert (tmp_path / 'link.txt').is_symlink()
    assert (tmp_path / 'there' / 'file.txt').read_text() == 'new'
    os.mkfifo(tmp_path / 'pipe')
    with subprocess.Popen(['cat', tmp_path / 'pipe'], stdout=subprocess.PIPE, text=True) as reader:
        write_text(tmp_path / 'pipe', 'through')
        assert reader.communicate()[0] == 'through'
    assert (tmp_path / 'pipe').is_fifo()
    with pytest.raises(UsageError, match=r'^/dev/full: cannot be written \(No space left on device\): make room'):
        write_text('/dev/full', 'new')
    with pytest.raises(UsageError, match='Is a directory'):
        write_text(tmp_path, 'new')


def test_a_file_that_grows_is_named():
    said = pytest.raises(UsageError, match=r'^log\.jsonl: cannot be written \(No space left on device\)')
    with said, naming('log.jsonl'), open('/dev/full', 'w') as file:
        file.write('a line')


TOOLS = Path(__file__).parents[1] / 'tools'
INTERRUPTED = """
import os, runpy, signal, sys
sys.argv = [{tool!r}, *{arguments!r}]
sys.path.insert(0, os.path.dirname({tool!r}))  # as Python does for a file
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
runpy.run_path({tool!r}, run_name='__main__')
"""


@pytest.mark.slow
@pytest.mark.parametrize('module', ['timm', 'vimamba.tasks'])
@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('train', ['no.py']),
        ('test', ['no.py', 'no.pth']),
        ('predict', ['no.png']),
        ('export', ['no.onnx']),
        ('browse', ['no.py']),
    ],
)
def test_an_interrupt_is_one_line_wherever_it_comes(tmp_path, tool, arguments, module):
    code = INTERRUPTED.format(tool=str(TOOLS / f'{tool}.py'), arguments=arguments, module=module)
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', 'interrupted\n')
    assert list(tmp_path.iterdir()) == []
