"""From a template and typed facts to a page. Needs Jinja2.

A template's own text is Markdown. Whatever `{{ }}` puts into it is escaped by the environment, unless it is Markdown
by its type: what a macro made, a shape, a command. A name that is not there is an error, wherever it stands.
"""

from __future__ import annotations

import functools
import json
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateSyntaxError, UndefinedError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.errors import UserError, first_line
from common.log import bottlenecks, conclusions, formulas, schema, tasks
from common.log.events import DECLARED, EAGER, PACKAGES, Accuracy, Perf
from common.log.figures import format_figure, format_metric, format_pair, percent, rate
from common.log.formulas import LATENCY_KEYS, LIMIT_KEYS, METRICS, size_of
from common.log.reader import Run, UnjudgeableError
from common.log.tasks import TASK_KEYS
from common.report import card, named
from common.report.facts import Page, causes_of, changes_of, explained_samples, kinds_of
from common.report.markdown import Markdown, escape, tidy, verbatim
from common.report.scoring import scoring_of
from common.verdict import glance, summary
from common.verdict.task import conclusion_of

TEMPLATES = Path(__file__).parent / "templates"


class _Missing(StrictUndefined):
    """Fails where it is looked up: `is none` would pass by it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._fail_with_undefined_error()


class _Context(Context):
    def call(self, called: Any, /, *arguments: Any, **named: Any) -> Any:
        made = super().call(called, *arguments, **named)
        return Markdown(made) if isinstance(called, Macro) else made


class _Environment(Environment):
    context_class = _Context


class _Sandbox(ImmutableSandboxedEnvironment):
    context_class = _Context


@functools.cache
def environment(folder: Path = TEMPLATES) -> Environment:
    made = _Environment(
        loader=FileSystemLoader(folder),
        undefined=_Missing,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {declared.__name__: declared for declared in DECLARED.values()}
    made.globals |= {"PACKAGES": PACKAGES, "METRICS": METRICS, "LATENCY_KEYS": LATENCY_KEYS, "LIMIT_KEYS": LIMIT_KEYS}
    made.globals |= {"whole": whole, "causes": conclusions.conclude_causes, "blocks": conclusions.conclude_blocks}
    made.globals |= {"advise": conclusions.advise, "causes_of": causes_of, "explained_samples": explained_samples}
    made.globals |= {"time": bottlenecks.conclude_kinds, "kinds_of": kinds_of}
    made.globals |= {"EAGER": EAGER, "ratios_of": formulas.ratios_of}
    made.globals |= {"gain_of": formulas.gain_of, "best_sizes": best_sizes}
    made.globals |= {"task_of": conclusion_of, "asked": tasks.describe_task, "changes_of": changes_of}
    made.globals |= {"TASK_KEYS": TASK_KEYS, "worst_error": worst_error, "spent": bottlenecks.conclude_bound}
    made.globals |= {"scoring_of": scoring_of, "sentence": glance.sentence}
    made.filters |= {"figure": figure, "metric": metric, "percent": percent, "shape": shape, "pair": format_pair}
    made.filters |= {"times": times, "rate": rate, "shown": summary.shown}
    made.filters |= {"verbatim": verbatim, "plainly": plainly}
    return made


def render(page: Page, template: str, folder: Path = TEMPLATES, lay_out: Callable[[str], str] = tidy) -> str:
    return lay_out(environment(folder).get_template(template).render(page=page))


def fill(path: Path, page: Page, texts: dict[str, str]) -> str:
    """A template of the user's own, filled with the named facts; `texts` are the pages, whose sections it may take.

    It sees nothing else, and is run in Jinja2's sandbox. Raises UserError, in one line, for one that can't be read,
    names what is not there, or fails otherwise.
    """
    sandbox = _Sandbox(undefined=_Missing, finalize=escape, trim_blocks=True, lstrip_blocks=True)
    sandbox.filters |= {"percent": percent, "verbatim": verbatim}
    sections = dict(sections_of(texts.values()))

    def section(heading: str) -> Markdown:
        if heading not in sections:
            raise UndefinedError(f"the pages have no section {heading!r}, but {', '.join(sections)}")
        return sections[heading]

    facts = {**named.facts_of(page), "front_matter": Markdown(card.front_matter(page)), "section": section}
    try:
        return sandbox.from_string(path.read_text(encoding="utf-8")).render(facts).rstrip("\n") + "\n"
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except Exception as error:  # a template can fail in any way
        raise UserError(f"the template {path}{_line_of(error)}: {first_line(error)}") from error


def _line_of(error: Exception) -> str:
    """Where in a template an error is, as far as it is known."""
    if isinstance(error, TemplateSyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f", line {lines[-1]}" if lines else ""


def sections_of(texts: Iterable[str]) -> Iterable[tuple[str, Markdown]]:
    """What stands under each heading of the second level."""
    for text in texts:
        for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            heading, _, body = part.partition("\n")
            yield heading, Markdown(body.strip("\n"))


def worst_error(run: Run) -> float | None:
    """The worst relative L2 of an accuracy run's outputs against its first reference; None where it is not finite."""
    found = run.all(Accuracy)
    errors = [each.worst.relative_l2 for each in found if each.reference == found[0].reference]
    return max(errors, key=size_of, default=None)


def best_sizes(rows: Sequence[Perf]) -> tuple[int, int]:
    """Of rows of one mode the batch size with the largest throughput, and the smallest that is nearly as good."""
    timed = {row.batch_size: row.timed.figures.throughput_ips for row in rows if row.timed}
    if not timed:
        raise UnjudgeableError("no batch size was timed")
    return formulas.best_sizes(timed)


def times(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}x"


def whole(part: Callable[[], str], otherwise: str) -> Markdown:
    """A part of a page; where the records lack what it shows, `otherwise` and what is lacking."""
    try:
        return Markdown(part())
    except UnjudgeableError as error:
        return Markdown(otherwise + escape(error))


def figure(declared: Any, key: str) -> str | None:
    """A figure by its key in the log, from an event or a part of one; several are joined by +, and None is none."""
    if key not in schema.keys(type(declared)):
        raise UndefinedError(f"{type(declared).__name__} has no {key}")
    value = schema.encode(declared).get(key)
    if value is None:
        return None
    return " + ".join(format_figure(key, each) for each in (value if isinstance(value, list) else [value]))


def metric(value: float | None, key: str) -> str:
    return format_metric(key, value)


def plainly(value: Any) -> str:
    """A field of the scores as text, as programs read it."""
    return value if isinstance(value, str) else json.dumps(value)


def shape(sizes: list[int] | None) -> Markdown | None:
    """The sizes of a tensor, as code, brackets and all."""
    return None if sizes is None else Markdown(f"`{sizes}`")
