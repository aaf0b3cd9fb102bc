"""The pages of a judgement in two languages with their plots, made from the events of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from common.errors import UserError, first_line
from common.log.reader import Run
from common.report.facts import Page, Topic, belongs
from common.verdict import glance
from common.verdict.evidence import Judgement

TEMPLATES = {"en": "{}.md.j2", "zh": "{}.zh-CN.md.j2"}
REPORT, FAILURE, SUBMISSION, SUMMARY = "report", "fail", "submission", "summary"
LANGUAGES = {"en": "report.md", "zh": "report.zh-CN.md"}  # the names of a report's pages


def require_packages(flag: str) -> None:
    """Raise UserError, with what helps, where what makes the pages can't be imported."""
    try:
        from common.report import card, plots, rendering  # noqa: F401
    except ImportError as error:
        needs = f"{flag} needs Jinja2, PyYAML and matplotlib"
        raise UserError(f"{needs}: {first_line(error)}; pip install jinja2 pyyaml matplotlib") from error


def draw(
    judgement: Judgement, inferences: Sequence[Run], assets: str = "", logs: str = "", left_out: Sequence[str] = ()
) -> tuple[Page, dict[str, bytes]]:
    """What the pages say of one encoder at most, and their plots by their names, which begin with `assets`.

    `logs` is where the logs are from the pages, `left_out` the flags that a run in their folder does not need.
    """
    from common.report import plots

    contents: dict[str, bytes] = {}
    topics = []
    for group in judgement.groups:
        drawn = plots.draw_all(group)
        names = {name: f"{assets}{name}.png" for name in drawn}
        contents |= {names[name]: image for name, image in drawn.items()}
        known = [run for run in inferences if belongs(run, group)]
        topics.append(Topic(group, known, names, judgement.argv, left_out, logs))
    return Page(judgement, topics, list(lines_of(judgement)), left_out=left_out), contents


def lines_of(judgement: Judgement) -> Iterator[str]:
    """The verdict as a terminal shows it."""
    if judgement.error:
        yield f"error: {judgement.error}"
    yield from glance.lines_of(judgement)
    yield f"OVERALL: {judgement.verdict}"


def text_of(page: Page, language: str, names: dict[str, str], template: str = REPORT) -> str:
    """A page in one language, of those that have these names; a report has front matter."""
    from common.report import card, rendering

    twin = next(name for other, name in names.items() if other != language)
    body = rendering.render(replace(page, twin=twin), TEMPLATES[language].format(template))
    return f"{card.front_matter(page)}\n{body}" if template in (REPORT, SUMMARY) else body


def submission_of(page: Page, language: str) -> str:
    """What is said of a port where it is handed in: three lines, however long."""
    from common.report import rendering

    return rendering.render(page, TEMPLATES[language].format(SUBMISSION), lay_out=lambda text: f"{text.strip()}\n")
