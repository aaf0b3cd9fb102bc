"""Many encoders as one table: a row for each encoder, dtype and numerics on a device, and for each log without one.

Standard library only.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from common.log.events import Accuracy, Cause, Env, Model
from common.log.figures import format_figure, percent
from common.log.framing import printable
from common.verdict.evidence import Group, Judgement, Verdict

LONGEST_CELL = 400  # characters; a hostile log can hold texts of any length
FORMULA = ("=", "+", "-", "@", "\t")  # with which a spreadsheet begins to compute
SETTING = ("dtype", "numerics", "device")  # said once where all rows have the same


@dataclass(frozen=True)
class Row:
    """One encoder in a setting; of a log without a run that can be judged, its name and the verdict. None is what the
    records do not say. `name` is the encoder's or the log's; errors are fractions, the worst of all outputs.
    """

    name: str
    dtype: str | None
    numerics: str | None
    device: str | None
    device_name: str | None
    weights_sha256: str | None
    params: int | None
    relative_error: float | None
    relative_l2: float | None
    cause: str | None
    avg_latency_ms: float | None
    throughput_ips: float | None
    batch_size: int | None
    mode: str | None
    speedup: float | None
    verdict: Verdict
    logs: str


KEYS = tuple(field.name for field in fields(Row))


def rows_of(judgement: Judgement) -> list[Row]:
    """The groups in their order, then the logs that none could be told from."""
    return [*map(row_of, judgement.groups), *rows_of_lost(judgement)]


def rows_of_lost(judgement: Judgement) -> list[Row]:
    """Of logs that no group was told from, where there are logs of several encoders: a row for those in a folder."""
    if not judgement.several:
        return []
    told = {run.log for group in judgement.groups for run in group.runs}
    told |= {_place(run.log) for group in judgement.groups if group.verdict for run in group.runs}
    lost: dict[str, list[str]] = {}
    for log in judgement.faulty_logs:
        if log not in told and _place(log) not in told:
            lost.setdefault(_place(log), []).append(log)
    return [_row_of_logs(place, logs) for place, logs in lost.items()]


def _place(log: str) -> str:
    """The folder of a log, where it has one in its name: a row stands for both of its logs."""
    return log.partition("/")[0]


def _row_of_logs(place: str, logs: Sequence[str]) -> Row:
    known = {"name": place, "logs": " ".join(dict.fromkeys(logs)), "verdict": Verdict.CANNOT_JUDGE}
    return Row(**{**dict.fromkeys(KEYS), **known})  # type: ignore[arg-type]


def row_of(group: Group) -> Row:
    model, env = group.runs[0].one(Model), group.runs[0].one(Env)
    accuracies = [event for run in group.of("accuracy") for event in run.all(Accuracy)]
    alone, best, speedup = group.alone, group.best, group.speedup
    return Row(
        name=model.model,
        dtype=model.dtype,
        numerics=model.numerics,
        device=env.device,
        device_name=env.device_name,
        weights_sha256=model.weights_sha256,
        params=model.params,
        relative_error=_worst([event.worst.relative_error for event in accuracies]),
        relative_l2=_worst([event.worst.relative_l2 for event in accuracies]),
        cause=next((each.cause for run in group.of("accuracy") for each in run.all(Cause) if each.best), None),
        avg_latency_ms=alone.timed.figures.latency.avg_latency_ms if alone and alone.timed else None,
        throughput_ips=best.timed.figures.throughput_ips if best and best.timed else None,
        batch_size=best.batch_size if best else None,
        mode=best.case.mode if best else None,
        speedup=speedup.speedup if speedup else None,
        verdict=group.verdict,
        logs=" ".join(dict.fromkeys(run.log for run in group.runs)),
    )


def _worst(errors: Sequence[float | None]) -> float | None:
    """The largest; None where one is not finite, or there is none."""
    known = [error for error in errors if error is not None]
    return max(known) if known and len(known) == len(errors) else None


# ------------------------------------------------------------------------------------------------------------- order
Order = Callable[[Row], tuple[float, str]]


def _by(key: str, descending: bool = False) -> Order:
    """By a figure, what has none last, then by name."""

    def place(row: Row) -> tuple[float, str]:
        value = getattr(row, key)
        number = math.inf if value is None else -value if descending else value
        return number, row.name

    return place


# What --sort takes: what is worst, largest or fastest comes first.
ORDERS: dict[str, Order] = {
    "name": lambda row: (0.0, row.name),
    "params": _by("params", descending=True),
    "error": _by("relative_l2", descending=True),
    "latency": _by("avg_latency_ms"),
    "throughput": _by("throughput_ips", descending=True),
    "speedup": _by("speedup", descending=True),
    "verdict": _by("verdict", descending=True),
}


# ------------------------------------------------------------------------------------------------------ the table
def lines_of(rows: Sequence[Row]) -> list[str]:
    """The rows for a terminal. What all of them share is said once; names, which may be long, stand last."""
    shared = {key: {getattr(row, key) for row in rows if row.params is not None} for key in SETTING}
    common = [str(next(iter(values))) for values in shared.values() if len(values) == 1]
    varying = [key for key, values in shared.items() if len(values) != 1]
    heads = ("verdict", "params", "error", "ms", "images/s", "speed-up", "cause", " ".join(["encoder", *varying]))
    table = [heads, *(_cells(row, varying) for row in rows)]
    widths = [max(len(cells[at]) for cells in table) for at in range(len(heads) - 1)]
    lines = [f"{len(rows)} rows" + (f", {' '.join(common)}" if common else "")]
    for verdict, *figures, cause, name in table:
        right = [f"{cell:>{width}}" for cell, width in zip(figures, widths[1:-1], strict=True)]
        lines.append("  ".join([f"{verdict:<{widths[0]}}", *right, f"{cause:<{widths[-1]}}", name]).rstrip())
    return lines


def _cells(row: Row, varying: Sequence[str]) -> tuple[str, ...]:
    name = " ".join([row.name, *(str(getattr(row, key)) for key in varying if getattr(row, key) is not None)])
    cells = (str(row.verdict), *(shown(row, key) or "-" for key in SHOWN), row.cause or "-", name)
    return tuple(printable(cell)[:LONGEST_CELL] for cell in cells)


SHOWN = ("params", "relative_l2", "avg_latency_ms", "throughput_ips", "speedup")


def shown(row: Row, key: str) -> str | None:
    """A figure of a row as people read it."""
    value = getattr(row, key)
    if value is None:
        return None
    if key == "relative_l2":
        return percent(value)
    return format_figure(key, value) + ("x" if key == "speedup" else "")


def as_csv(rows: Sequence[Row]) -> str:
    """The rows with all that is known of them, figures as they are; an empty cell is what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(KEYS)
    writer.writerows([_plain(getattr(row, key)) for key in KEYS] for row in rows)
    return text.getvalue()


def _plain(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, Verdict)):
        return value
    text = printable(str(value))[:LONGEST_CELL]
    return f"'{text}" if text.startswith(FORMULA) else text
