"""The machine's state around a performance run: that it was recorded as a run does, and what of it spoils figures."""

from __future__ import annotations

from collections.abc import Iterator

from common.log.bottlenecks import doubts_of_machine
from common.log.conclusions import Words
from common.log.events import Env, Machine
from common.log.reader import Run
from common.verdict.evidence import Check, judgeable


def check_machine(run: Run) -> Iterator[Check]:
    """Recorded at the start and at the end, in figures that can be; earlier logs have none, and are judged without."""
    found = run.all(Machine)
    if not found:
        return
    phases = [each.phase for each in found]
    whole = phases == ["start", "end"] and [each.settings is not None for each in found] == [True, False]
    figures = [value for each in found for value in (each.foreign_memory_mb, each.load_average, each.own_load)]
    sound = all(value is None or value >= 0 for value in figures)
    value = " ".join(phases) if sound else "a figure below 0"
    yield Check("machine", value, "start end", judgeable(whole and sound))


def doubts_of(run: Run) -> Iterator[Words]:
    """Warnings of what else the machine did, or how it was set."""
    for machine in run.all(Machine):
        env = run.one(Env)
        for words in doubts_of_machine(machine, env.kind, env.host.cpu_count):
            yield Words(f"warning: {words.en}", f"警告：{words.zh}")
