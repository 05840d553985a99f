"""The picture of a model's predictions for files."""

from __future__ import annotations

import os
from typing import Any

from vimamba.outputs import whole_file

from .contact_sheet import contact_sheet
from .samples import picture

__all__ = ['draw_answers']


def draw_answers(answers: Any, out: str | os.PathLike[str]) -> None:
    """Draws `vimamba.tasks.predict.files.Answers`: the first files, with all boxes found. Without files, does nothing.

    Raises:
        UsageError: ``out`` cannot be written.
    """
    if not answers.found:
        return
    with whole_file(out) as part:
        if answers.labels:
            contact_sheet(answers.found, part, videos=answers.what == 'video')
        else:
            shown = [(r.image, r.output, r.path) for r in answers.found if r.image is not None]
            images, outputs, names = zip(*shown)
            picture(answers.task, images, None, outputs, answers.classes, names, threshold=0).save(part)
