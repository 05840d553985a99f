"""What the pages say is what happens: their Python runs, and prints what they show."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_on_composing_runs_as_it_stands(tmp_path):
    page = (ROOT / 'docs' / 'compose.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    script = '\n'.join(blocks).replace("'runs/spiral'", f"'{tmp_path}/spiral'")
    assert script.count("['model.scan=spiral']") == 1
    script = script.replace(
        "['model.scan=spiral']", "['model.scan=spiral', 'schedule.epochs=1', 'schedule.warmup_epochs=0']"
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = re.findall(r'<!-- output -->\n```\n(.*?)```', page, flags=re.DOTALL)
    assert shown in done.stdout
    assert 'spiral' in (tmp_path / 'spiral' / 'config.json').read_text()
    assert (tmp_path / 'spiral' / 'last.pth').is_file()
