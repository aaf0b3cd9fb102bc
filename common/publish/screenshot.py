"""The verdict's lines as a picture of a terminal, and the same as text. Needs matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.log.events import RunStart
from common.log.framing import printable
from common.log.reader import Run
from common.report.facts import Page
from common.verdict.evidence import Verdict

COLUMNS = 100
MOST_LINES = 90
WIDTH = 1600  # pixels: twice those of the width at which it is read
MARGIN = 1  # of a line
FONT_WIDTH, LINE_HEIGHT = 0.602, 1.35  # of DejaVu Sans Mono, in its size
BACKGROUND, PLAIN = "#10151B", "#E4E7EB"
COLOURS = {Verdict.PASS: "#57C785", Verdict.FAIL: "#FF7B72", Verdict.CANNOT_JUDGE: "#E3B341"}
STYLE: dict[Any, Any] = {"font.family": ["DejaVu Sans Mono"], "text.parse_math": False, "text.hinting": "none"}


def lines_of(page: Page) -> list[str]:
    """The checker's command, what it prints, and which runs it judged: in ASCII, in lines of at most COLUMNS."""
    texts = [f"$ {page.judged_by}", *page.lines, "", *(line for run in page.runs for line in _identity(run))]
    return [line for text in texts for line in _wrapped(text)]


def _identity(run: Run) -> Iterator[str]:
    start, end = next(iter(run.all(RunStart)), None), run.end
    yield f"{run.log}: {run.script}, run {run.id}{f', {start.utc}' if start else ''}"
    if end:
        yield f"  records_sha256 {end.records_sha256}"


def _wrapped(text: str) -> Sequence[str]:
    shown = printable(text).encode("ascii", "backslashreplace").decode()
    return textwrap.wrap(shown, COLUMNS, subsequent_indent="    ", drop_whitespace=False) or [""]


def draw(lines: Sequence[str]) -> bytes:
    """Lines as PNG; those that are too many are counted in the last one."""
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"... and {len(lines) - MOST_LINES + 1} more lines, in the text beside"]
    inches = WIDTH / 200
    size = inches / ((COLUMNS + 4) * FONT_WIDTH)  # inches a character is high
    height = size * LINE_HEIGHT * (len(lines) + 2 * MARGIN)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(inches, height), dpi=200, facecolor=BACKGROUND)
        FigureCanvasAgg(figure)
        for place, line in enumerate(lines):
            figure.text(
                2 * FONT_WIDTH * size / inches,
                1 - (place + MARGIN) * size * LINE_HEIGHT / height,
                line,
                color=colour_of(line),
                fontsize=72 * size,
                va="top",
            )
        content = io.BytesIO()
        figure.savefig(content, format="png", facecolor=BACKGROUND)
    return content.getvalue()


def colour_of(line: str) -> str:
    """That of the gravest verdict in a line."""
    return next((COLOURS[verdict] for verdict in reversed(Verdict) if str(verdict) in line), PLAIN)


def as_text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")
