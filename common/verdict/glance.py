"""The verdict at a glance: of each encoder a few lines, then in words what failed or is in doubt."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from common.log.events import EAGER, Accuracy, Env, Model, Perf, Task
from common.log.figures import format_figure, percent
from common.log.framing import printable
from common.log.reader import Run
from common.log.samples import images_of
from common.verdict.comparison import differences_in_words
from common.verdict.evidence import Check, Comparison, Group, Judgement, Verdict, worst_verdict
from common.verdict.task import conclusion_of

WIDTH = 100  # columns
LONGEST_TEXT = 400  # characters; a hostile log can hold texts of any length
NAME_COLUMNS = 13
WARNING = "warning: "
MOST_GROUPS = 3  # that are told one by one; of more the table says enough
AT_MOST = "<= "

# How a check that did not pass reads, by the pattern that its name fits, which may name parts of it; the first that
# fits. What fits none is "name: value, wanted: bound".
SENTENCES = {
    r"(?P<of>\S+\.py) (?P<run>\w+)": "run {run} of {of} is not whole: {value}",
    "logs": "a log can't be read; the error says why",
    "log (?P<of>.*)": "{of}{value}",
    "evidence": "the logs hold {value}",
    "records": "the records do not suffice: {value}",
    "same setting": "the runs are of different things: {value}",
    "(?P<kind>accuracy|perf) run": "no {kind} run of the same weights, dtype and device; "
    "--only {other} judges without it",
    "(?P<kind>accuracy|perf) device": "the {kind} run was on {value}, not on {bound}",
    "(?P<kind>accuracy|perf) weights on": "the {kind} run had its weights on {value} and its outputs on {bound}",
    "(?P<kind>accuracy|perf) NPU software": "the {kind} run does not say what it ran on: {value}",
    "(?P<kind>accuracy|perf) weights": "the {kind} run had random weights; --allow-random-weights judges them",
    "(?P<kind>accuracy|perf) misfit keys": "of the {kind} run's weights {value} keys do not fit the model",
    "(?P<kind>accuracy|perf) probe of the (?P<of>device|CPU)": "the {of} did not compute what was asked for in the "
    "{kind} run: {value}",
    "task images": "the task was judged on {value} images, not on {bound}",
    "task predictions": "the task's predictions are not those of its images: {value}",
    "task figures": "the task's figures are not those of its predictions: {value}",
    "task size": "the task has too few images: {value}; wanted: {bound}",
    "task reference_accuracy": "the reference itself is right on {value} of the task's images; wanted: {bound}, or "
    "there is nothing to lose",
    "task result in the log": "task: the log says {value}, and its own figures say {bound}",
    "task (?P<of>accuracy_drop|lost|changed)": "on the task {of} is {value} of the images; wanted: {bound}",
    "images of the outputs": "the two outputs are not of the same images",
    "(?P<of>.*) worst of samples": "{of}: the summary is not that of its images: {value}",
    "(?P<of>.*) samples": "{of}: {value} images, and the summary is of {bound}",
    "(?P<of>.*) computed on": "{of} was computed on {value}, not on {bound}",
    "(?P<of>.*) reference": "{of} compared with {value} proves nothing here; {bound} does",
    "(?P<of>.*) shape": "{of} has the shape {value}, not {bound}",
    "(?P<of>.*) NaN or infinite": "{of} has elements that are NaN or infinite: up to {value} an image",
    "(?P<of>.*) formulas": "{of}: an image's figures contradict each other: {value}",
    "(?P<of>.*) worst token": "{of}: the worst token contradicts the other figures",
    "(?P<of>.*) result in the log": "{of}: the log says {value}, and its own figures say {bound}",
    "batch sizes": "batch sizes {value} were measured, not {bound}",
    r"batch (?P<of>\d+( compile:\S+)?) status": "batch {of} was not measured: {value}",
    r"batch (?P<of>\d+( compile:\S+)?) summary": "batch {of}: {value}",
    r"batch (?P<of>\d+( compile:\S+)?) same embedding": "batch {of}: the timed embedding and the compared one: "
    "{value}, wanted: {bound}",
    r"batch (?P<of>\d+( compile:\S+)?) kinds": "batch {of}: {value}",
    "kinds": "the kinds of modules are not the same at all batch sizes",
    "limit": "the device's limit: {value}",
    r"batch (?P<of>\d+( compile:\S+)?) throughput beside (?P<which>.*)": "batch {of}: throughput beside "
    "{which} is {value}; wanted: {bound}",
    "(?P<which>.*) itself": "the compared log is no measure: its own verdict is {value}",
    "compare": "nothing to compare with: {value}; wanted: {bound}",
    "machine": "the machine's state is recorded as no run does: {value}",
}


def lines_of(judgement: Judgement) -> Iterator[str]:
    """All that stands before the verdict, in at most 100 columns unless a name is unusually long."""
    judged = [group for group in judgement.groups if group.checks]
    for group in judged if len(judged) <= MOST_GROUPS else ():
        yield from _group_lines(group, judgement.only)
    for check in judgement.checks:
        if check.verdict:
            yield from _wrapped(f"{check.verdict}: ", sentence(check))
    for remark in judgement.remarks if len(judged) <= MOST_GROUPS else ():
        if remark.en.startswith(WARNING):
            yield from _wrapped(WARNING, remark.en.removeprefix(WARNING))
    for remark in judgement.limits:
        yield from _wrapped("", remark.en)


def sentence(check: Check) -> str:
    """A check that did not pass, in words."""
    prefix, separator, name = check.name.rpartition(": ")  # of one encoder among several
    for pattern, words in SENTENCES.items():
        if found := re.fullmatch(pattern, name):
            parts = found.groupdict()
            other = "accuracy" if parts.get("kind") == "perf" else "perf"
            return prefix + separator + words.format(value=check.value, bound=check.bound, other=other, **parts)
    if check.bound.startswith(AT_MOST):
        return f"{check.name} is {check.value}; the bound is {check.bound.removeprefix(AT_MOST)}"
    return f"{check.name}: {check.value}, wanted: {check.bound}"


def _group_lines(group: Group, only: str | None) -> Iterator[str]:
    """One encoder: what the evidence is, what it shows, and what it does not prove."""
    yield from _wrapped("", group.title)
    yield from _line("evidence", f"{_verdict_of(group, 'evidence')}  {_evidence(group.runs)}")
    for kind, words in (("accuracy", _accuracy), ("perf", _performance)):
        name = "performance" if kind == "perf" else kind
        if only in (None, kind):
            found = words(group) if group.of(kind) else "no run"
            yield from _line(name, f"{_verdict_of(group, kind)}  {found}")
            for task in filter(None, map(conclusion_of, group.of(kind))):
                yield from _line("task", f"{_verdict_of(group, 'task')}  {task.en}")
    yield from _line("device", _device(group.runs[0]))
    for comparison in group.comparisons:
        for place, text in enumerate(_comparison(comparison)):
            yield from _line("" if place else "compared", text)
    caveats = [remark.en for remark in group.remarks if not remark.en.startswith(WARNING)]
    others = "accuracy on other images" if any(run.all(Task) for run in group.runs) else "a data set's accuracy"
    for place, caveat in enumerate(caveats or [f"{others}, or that this is fast enough."]):
        yield from _line("" if place else "not proved", caveat)


def _verdict_of(group: Group, about: str) -> Verdict:
    return worst_verdict([check for check in group.checks if check.about == about])


def _evidence(runs: Sequence[Run]) -> str:
    logs = ", ".join(dict.fromkeys(run.log for run in runs))
    images = set().union(*map(images_of, runs))
    counted = f"{len(runs)} whole run{'s' * (len(runs) > 1)}"
    return f"{counted}, {len(images)} images: {logs}" if images else f"{counted}: {logs}"


def _accuracy(group: Group) -> str:
    """The figure that comes nearest to its bound, or lies farthest beyond it; and what the log itself says."""
    bounded = [check for check in group.checks if check.metric is not None and check.share is not None]
    if not bounded:
        return "no errors that can be compared"
    worst = max(bounded, key=lambda check: check.share or 0.0)
    accuracies = [event for run in group.of("accuracy") for event in run.all(Accuracy)]
    references = " and ".join(sorted({event.reference for event in accuracies}))
    name, bound = worst.name.removeprefix(f"{group.title}: "), worst.bound.removeprefix(AT_MOST)
    words = f"worst: {name} {worst.value}, bound {bound}, against {references}"
    stated = {check.value == check.bound for check in group.checks if check.name.endswith("result in the log")}
    if any(event.result == "FAIL" for event in accuracies) and stated == {True}:
        words += "; the log says FAIL and so do its samples"
    return words


def _performance(group: Group) -> str:
    """The first mean latency and the best throughput, as the log states them: the checks hold them to their samples."""
    found = []
    for run in group.of("perf"):
        rows = [row for row in run.all(Perf) if row.status == "ok" and row.timed is not None]
        figures = {row.case: row.timed.figures for row in rows if row.timed is not None}
        if not figures:
            found.append("nothing was timed")
            continue
        first = min(figures, key=lambda case: (case.mode != EAGER, case.batch_size))
        latency = format_figure("avg_latency_ms", figures[first].latency.avg_latency_ms)
        best = max(figures, key=lambda case: figures[case].throughput_ips)
        ips = format_figure("throughput_ips", figures[best].throughput_ips)
        words = f"avg {latency} ms at {first}, best {ips} images/s at {best}"
        share = figures[best].limit.percent_of_limit
        found.append(words if share is None else f"{words}, {format_figure('percent_of_limit', share)} of the limit")
    return "; ".join(found)


def _comparison(found: Comparison) -> Iterator[str]:
    """What the other is, our figures in times of its, the errors of both, and what differs."""
    verdict = "" if found.verdict is Verdict.PASS else f", whose own verdict is {found.verdict}"
    yield f"with {found.title} ({', '.join(found.logs)}){verdict}"
    if found.paces:
        labels = [pace.case.label for pace in found.paces]
        sizes = (" " if all(map(str.isdigit, labels)) else ", ").join(labels)
        throughput, latency = (
            " ".join(f"{getattr(pace, key):.2f}x" for pace in found.paces)
            for key in ("throughput_ratio", "latency_ratio")
        )
        yield f"throughput {throughput}, latency {latency} of the other's, at batch {sizes}"
    errors = [
        f"{each.output} {' / '.join(map(percent, each.values))}"
        for each in found.errors
        if each.metric == "relative_l2"
    ]
    if errors:
        yield f"relative_l2, ours / the other's: {', '.join(errors)}"
    yield f"differs: {differences_in_words(found)}"


def _device(run: Run) -> str:
    env, model = run.one(Env), run.one(Model)
    packages = env.host.packages
    software = {"torch": packages.torch, "torch_npu": packages.torch_npu, "CANN": env.host.cann}
    named = ", ".join(f"{name} {version}" for name, version in software.items() if version)
    return f"{env.device} {env.device_name}, {model.numerics} {model.dtype}, {named}"


def _line(name: str, text: str) -> Iterator[str]:
    yield from _wrapped(f"  {name:<{NAME_COLUMNS}}", text)


def _wrapped(start: str, text: str) -> Iterator[str]:
    """A text behind a start, in lines of bounded width, those that follow indented as far, and of bounded length."""
    shown = printable(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}...")[: 2 * LONGEST_TEXT]
    indent = " " * (len(start) if start.startswith(" ") else 4)
    lines = textwrap.wrap(
        shown, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    yield from lines or [start]
