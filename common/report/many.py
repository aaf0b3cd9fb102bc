"""The pages of several encoders: a table that comes first, and for each of them a page and plots of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.log.reader import Run
from common.report import pages
from common.report.facts import Entry, Page, Topic
from common.verdict import summary
from common.verdict.evidence import Group, Judgement
from common.verdict.judging import check_integrity
from common.verdict.summary import Order

LONGEST_STEM = 80
CSV = "summary.csv"


def draw(judgement: Judgement, inferences: Sequence[Run], order: Order) -> tuple[Page, dict[str, bytes]]:
    """What the first page says, its table in this order; the pages and plots of each encoder, and the table as CSV, by
    their names.
    """
    contents: dict[str, bytes] = {}
    entries: list[Entry] = []
    topics: list[Topic] = []
    for group, stem in zip(judgement.groups, _stems(group.title for group in judgement.groups), strict=True):
        names = {"en": f"{stem}.md", "zh": f"{stem}.zh-CN.md"}
        page, plots = pages.draw(_alone(judgement, group), inferences, f"{stem}-")
        contents |= plots | {name: pages.text_of(page, key, names).encode() for key, name in names.items()}
        entries.append(Entry(summary.row_of(group), names))
        topics += page.topics
    entries += map(Entry, summary.rows_of_lost(judgement))
    entries.sort(key=lambda entry: order(entry.row))
    contents[CSV] = summary.as_csv([entry.row for entry in entries]).encode()
    return Page(judgement, topics, summary=entries), contents


def _alone(judgement: Judgement, group: Group) -> Judgement:
    """What was judged of one group, the checks of its runs' wholeness among it."""
    whole = map(check_integrity, group.runs)
    return replace(
        judgement, checks=[*whole, *group.checks], groups=[group], runs=list(group.runs), error=None, faulty_logs=[]
    )


def _stems(titles: Iterable[str]) -> list[str]:
    """A file's name without its ending for each title, in letters that every file system has, each once."""
    taken = {pages.REPORT}
    stems = []
    for title in titles:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-")[:LONGEST_STEM].lower() or "encoder"
        stem = next(each for each in (plain, *(f"{plain}-{at}" for at in range(2, 10_000))) if each not in taken)
        taken.add(stem)
        stems.append(stem)
    return stems
