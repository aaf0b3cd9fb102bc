"""The checks of where a performance run says that its time goes: shares computed again from raw samples."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from common.log import formulas
from common.log.events import EAGER, KINDS, Kind, Perf
from common.log.reader import Run, UnjudgeableError
from common.verdict.evidence import RELATIVE_TOLERANCE, Check, equal, passed
from common.verdict.performance import Limits, check_possible, measured_limits, require_times

FIGURES = ("count", "ms", "share", "remainder", "percent_of_limit")
STAGE = re.compile(r"stage \d+")


def check_kinds(run: Run) -> Iterator[Check]:
    """The kinds of modules, at each batch size that has them: all from their samples, and the same at all sizes."""
    by_size: dict[int, list[Kind]] = {}
    for kind in run.all(Kind):
        by_size.setdefault(kind.batch_size, []).append(kind)
    if not by_size:
        return
    limits = measured_limits(run)
    timed = {row.batch_size for row in run.all(Perf) if row.case.mode == EAGER}
    for batch_size, kinds in by_size.items():
        whole = require_kinds(kinds, timed)
        yield check_shares(batch_size, kinds, limits)
        yield check_possible(f"batch {batch_size} forward", 1000 * batch_size / formulas.kind_ms(whole.parts), limits)
    if len(by_size) > 1:
        first, *others = ({kind.name: kind.count for kind in kinds} for kinds in by_size.values())
        same = passed(all(other == first for other in others))
        yield Check("kinds", f"{len(first) - 1}", "equal at all sizes", same)


def require_kinds(kinds: Sequence[Kind], timed: set[int]) -> Kind:
    """The whole among the kinds of a batch size.

    Raises UnjudgeableError where they are not one whole and different kinds in it, of a batch size that was timed.
    """
    whole = [kind for kind in kinds if kind.name == formulas.FORWARD]
    if len(whole) != 1 or len({kind.name for kind in kinds}) < len(kinds) or kinds[0].batch_size not in timed:
        raise UnjudgeableError("kind records: one twice, or no whole forward, or of a batch size that was not timed")
    if [part.count for part in whole[0].parts] != [1]:
        raise UnjudgeableError("kind record: the whole forward is not one part")
    for kind in kinds:
        if kind.name not in KINDS and not STAGE.fullmatch(kind.name):
            raise UnjudgeableError(f"kind record: {kind.name!r:.60} is no kind")
        if min((part.count for part in kind.parts), default=0) < 1:
            raise UnjudgeableError("kind record: no parts, or one of no module")
        for part in kind.parts:
            require_times(part.windows, "kind")
    return whole[0]


def check_shares(batch_size: int, kinds: Sequence[Kind], limits: Limits) -> Check:
    """The figures are those of the raw samples, and the operations together no more than the encoder's."""
    computed = formulas.with_shares(kinds, limits.tflops)
    faults = [
        f"{key} of {stated.name} contradicts its samples"
        for stated, right in zip(kinds, computed, strict=True)
        for key in FIGURES
        if not equal(getattr(stated, key), getattr(right, key))
    ]
    gflop = {kind.name: kind.gflop for kind in kinds}
    whole = gflop.pop(formulas.FORWARD)
    known = [each for each in gflop.values() if each is not None]
    if not equal(whole, limits.cost.gflop_per_image * batch_size):
        faults.append("gflop of the forward contradicts the model's")
    elif min(known, default=1.0) <= 0 or math.fsum(known) > (whole or 0.0) * (1 + RELATIVE_TOLERANCE):
        faults.append("the kinds have more operations than the encoder")
    value = faults[0] if faults else f"{len(gflop)} kinds, computed again"
    return Check(f"batch {batch_size} kinds", value, "equal", passed(not faults))
