"""From a template and typed facts to a page. Needs Jinja2.

A template's own text is Markdown. Whatever `{{ }}` puts into it is escaped by the environment, unless it is Markdown
by its type: what a macro made, a shape, a command. A name that is not there is an error, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from jinja2.runtime import Context, Macro

from common.log import bottlenecks, conclusions, formulas, schema, tasks
from common.log.events import DECLARED, EAGER, PACKAGES, Accuracy, Perf
from common.log.figures import format_figure, format_metric, format_pair, percent, rate
from common.log.formulas import LATENCY_KEYS, LIMIT_KEYS, METRICS, size_of
from common.log.reader import Run, UnjudgeableError
from common.log.tasks import TASK_KEYS
from common.report.facts import Page, causes_of, changes_of, explained_samples, kinds_of
from common.report.markdown import Markdown, escape, tidy
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
    made.filters |= {"figure": figure, "metric": metric, "percent": percent, "shape": shape, "pair": format_pair}
    made.filters |= {"times": times, "rate": rate}
    return made


def render(page: Page, template: str, folder: Path = TEMPLATES) -> str:
    return tidy(environment(folder).get_template(template).render(page=page))


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


def shape(sizes: list[int] | None) -> Markdown | None:
    """The sizes of a tensor, as code, brackets and all."""
    return None if sizes is None else Markdown(f"`{sizes}`")
