"""What a reader must know beside the verdict: what the evidence does not prove, and what it leaves in doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import summaries
from evidence import is_simulated, one
from runlog import Record, Run, percent


def remarks_on(group: Sequence[Run]) -> list[str]:
    """The remarks on runs of one identity, each once, the gravest last."""
    env, model = one(group[0], "env"), one(group[0], "model")
    found = [remark for run in group for remark in (*_doubts(run), *_timing_doubts(run))]
    return list(dict.fromkeys([*found, *_limits_of(model, env)]))


def _doubts(run: Run) -> Iterator[str]:
    for record in run.events("fallback"):
        yield f"warning: operators ran on the CPU: {record.get('operators')}."
    model = one(run, "model")
    strict = (model.get("numerics"), model.get("dtype")) == ("strict", "float32")
    for record in run.events("accuracy"):
        error = record.get("relative_l2")
        if strict and isinstance(error, float) and summaries.is_far_above_noise(error, _noise_floor(run, record)):
            yield f"warning: {record.get('output')} errs by {percent(error)}: float32 alone is far below that."


def _timing_doubts(run: Run) -> Iterator[str]:
    for record in run.events("perf"):
        batch, n, share = record.get("batch_size"), record.get("n"), record.get("percent_of_limit")
        if isinstance(n, int) and n < summaries.FEWEST_SAMPLES:
            yield f"warning: batch {batch} was timed {n} times only."
        elif record.get("stable") is False:
            yield f"warning: batch {batch} is not stable: half of its times lie more than 10 % apart."
        if record.get("status") == "ok" and share is None:
            yield "warning: no limit beside the figures: the encoder's operations can't be counted."
        if isinstance(share, float) and share > summaries.MOST_OF_LIMIT:
            yield f"warning: batch {batch} reaches {share:.1%} of the limit: more than counted operations allow."


def _noise_floor(run: Run, accuracy: Record) -> float | None:
    """What the run measured of its CPU's float32 against float64; None where it did not."""
    floors = [record for record in run.events("noise_floor") if record.get("output") == accuracy.get("output")]
    floor = floors[0].get("relative_l2") if floors else None
    return floor if isinstance(floor, float) else None


def _limits_of(model: Record, env: Record) -> Iterator[str]:
    """What this evidence says nothing about."""
    if model.get("numerics") != "strict":
        yield f"{model.get('numerics')} numerics: the device's defaults, as probed, not what the model asks for."
    if model.get("weights_source") == "random":
        yield "random weights: this says nothing about a pretrained model's weights."
    if env["device"] == "cpu":
        yield "CPU evidence: it says nothing about an NPU."
    elif is_simulated(env):
        yield f"simulated device {env.get('device_name')}: it says nothing about Ascend hardware."
