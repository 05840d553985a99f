"""What a tool does with its process: memory that is freed stays, so that a second use of it costs no page faults; what
cannot be written is told in one line.
"""

import resource
import subprocess
import sys

import pytest

from vimamba.cli import import_code
from vimamba.errors import UsageError
from vimamba.outputs import check_output

PROGRAM = """
import resource, sys
from vimamba.memory import keep_memory
import torch
assert keep_memory() == (sys.platform == 'linux')
def fill():
    parts = [torch.ones(4 << 20) for _ in range(6)]  # 16 MiB each
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True)
    pages = 6 * (16 << 20) // resource.getpagesize()
    assert int(done.stdout) < pages / 2


def tool(body, **keywords):
    """A tool that does this."""
    code = f'from vimamba.errors import run\ndef main():\n    {body}\nrun(main)'
    return subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('body', 'said'),
    [
        ("print('much')", 'error: the output cannot be written: No space left on device\n'),
        (
            "open('/dev/full', 'wb', buffering=0).write(b'much')",
            'error: the output cannot be written: No space left on device\n',
        ),
        ("open('/proc/none.json', 'w')", 'error: /proc/none.json: No such file or directory\n'),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(body, said):
    with open('/dev/full', 'w') as full:
        done = tool(body, stdout=full)
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.slow
def test_an_error_of_the_program_is_no_such_line():
    done = tool("raise OSError('of a library')")
    assert done.returncode == 1
    assert done.stderr.startswith('Traceback')


def test_outputs_are_tried_before_the_work_and_left_as_they_are(tmp_path):
    (there := tmp_path / 'there.json').write_text('old')
    check_output('--json', there)
    check_output('--json', tmp_path / 'new/and/newer/file.json')
    check_output('--maps', tmp_path / 'maps', folder=True)
    assert there.read_text() == 'old'
    assert [path.name for path in tmp_path.rglob('*')] == ['there.json']
    for path, folder in (('/proc/file.json', False), ('/proc', True), (tmp_path, False), (there / 'below', True)):
        with pytest.raises(UsageError, match=rf'^--out {path}: .+: choose another place$'):
            check_output('--out', path, folder=folder)


def test_code_of_the_user_is_imported_and_takes_no_name_of_another(tmp_path, monkeypatch):
    (tmp_path / 'spirals.py').write_text('import sys\nassert sys.modules[__name__].__file__ == __file__\n')
    (tmp_path / 'broken.py').write_text('import no_such_library\n')
    (tmp_path / 'json.py').write_text('')
    for path in ([], [str(tmp_path)]):  # where Python finds the file itself, too
        monkeypatch.setattr(sys, 'path', [*sys.path, *path])
        monkeypatch.delitem(sys.modules, 'spirals', raising=False)
        import_code([str(tmp_path / 'spirals.py')])
        assert sys.modules['spirals'].__file__ == str(tmp_path / 'spirals.py')
    monkeypatch.delitem(sys.modules, 'spirals')
    import_code(['spirals'])
    for name in (str(tmp_path / 'broken.py'), 'broken'):
        with pytest.raises(ModuleNotFoundError, match='no_such_library'):
            import_code([name])
        sys.modules.pop('broken', None)
    for name, said in (('json.py', 'that of another'), ('none.py', 'no such file'), ('none', 'no such module')):
        with pytest.raises(UsageError, match=rf'^--import .*{name}: .*{said}'):
            import_code([name if name == 'none' else str(tmp_path / name)])
    monkeypatch.delitem(sys.modules, 'spirals')
