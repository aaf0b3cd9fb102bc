"""The pages that are published: report.md and report.zh-CN.md with their plots, made from the events of a judgement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, first_line
from common.log.reader import Run
from common.log.whole_files import write_all
from common.report.facts import Page, Topic, belongs
from common.verdict.evidence import Judgement

PAGES = ("report.md", "report.zh-CN.md")  # each has a template


def write(folder: Path, judgement: Judgement, inferences: Sequence[Run]) -> None:
    """Write the pages and plots into the folder. Raises UserError when that can't be done."""
    try:
        from common.report import card, plots, rendering
    except ImportError as error:
        needs = "--report needs Jinja2, PyYAML and matplotlib"
        raise UserError(f"{needs}: {first_line(error)}; pip install jinja2 pyyaml matplotlib") from error

    contents: dict[str, bytes] = {}
    topics = []
    for place, group in enumerate(judgement.groups, start=1):
        drawn = plots.draw_all(group)
        names = {name: f"{name}.png" if place == 1 else f"{name}-{place}.png" for name in drawn}
        contents |= {names[name]: image for name, image in drawn.items()}
        topics.append(Topic(group, [run for run in inferences if belongs(run, group)], names, judgement.argv))
    page, front_matter = Page(judgement, topics), card.front_matter(judgement.groups)
    for name in PAGES:
        contents[name] = f"{front_matter}\n{rendering.render(page, f'{name}.j2')}".encode()
    write_all(folder, contents)
