"""The folder of --report: the page of one encoder, or of several a table and a page each, with their plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.log.reader import Run
from common.log.whole_files import write_all
from common.report import many, pages
from common.verdict import summary
from common.verdict.evidence import Judgement
from common.verdict.summary import Order


def write(
    folder: Path,
    judgement: Judgement,
    inferences: Sequence[Run],
    template: Path | None = None,
    order: Order = summary.ORDERS["name"],
) -> None:
    """Write the pages and plots into the folder, and a page of the user's own template.

    Several encoders have a page each, and one before them with their table in this order. Raises UserError when that
    can't be done.
    """
    pages.require_packages("--report")
    from common.report import rendering

    kind = pages.SUMMARY if judgement.groups and len(summary.rows_of(judgement)) > 1 else pages.REPORT
    several = kind == pages.SUMMARY
    page, contents = many.draw(judgement, inferences, order) if several else pages.draw(judgement, inferences)
    texts = {language: pages.text_of(page, language, pages.LANGUAGES, kind) for language in pages.LANGUAGES}
    contents |= {pages.LANGUAGES[language]: text.encode() for language, text in texts.items()}
    if template:
        contents |= {template.name.removesuffix(".j2"): rendering.fill(template, page, texts).encode()}
    write_all(folder, contents)
