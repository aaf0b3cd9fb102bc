"""The checks of what runs share: code, libraries, device, weights and numerics, and that these may be judged at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from common.cli import environment
from common.log import formulas
from common.log.runlog import Run
from common.verdict.evidence import (
    KIND,
    Bounds,
    Check,
    UnjudgeableError,
    Verdict,
    is_simulated,
    number,
    one,
    passed,
    text,
)

# What the runs of one verdict must have in common, beside weights, dtype and device.
COMMON_FACTS = {
    "run_start": ("code_sha256",),
    "env": (
        *("device_name", "simulated", "python", "platform", "cpu_model", "cann", *environment.PACKAGES),
        *("npu_driver", "allow_hf32", "fallback_disabled", "task_queue_enable", "visible_devices"),
    ),
    "model": (
        *("model", "library", "architecture", "params", "left_out_keys", "input_size", "preprocess"),
        *("operators", "classifier"),
    ),
}
# Records that only this kind of run writes: in another they are out of place.
OWN_EVENTS = {"accuracy": ("accuracy", "sample"), "perf": ("latencies", "limit", "perf", "ranks", "speedup")}


def check_common_facts(group: Sequence[Run]) -> Check:
    """Code, libraries, device and preprocessing are the same in all runs."""
    different = []
    for event, keys in COMMON_FACTS.items():
        for key in keys:
            values = [json.dumps(run.events(event)[0].get(key, "missing"), sort_keys=True) for run in group]
            if any(value != values[0] for value in values):  # as text: in Python 1, 1.0 and true are equal
                different.append(f"{key} differs: {' / '.join(value[:24] for value in values)}")
    if different:
        return Check("same setting", "; ".join(different), "equal in all runs", Verdict.CANNOT_JUDGE)
    return Check("same setting", "code, versions, device", "equal in all runs", Verdict.PASS)


def check_setting(run: Run, bounds: Bounds) -> Iterator[Check]:
    """What was run, and on what."""
    env, model, kind = one(run, "env"), one(run, "model"), KIND[run.start["script"]]
    device = text(env, "device")
    device_kind = device.partition(":")[0]

    name = f"{device} {text(env, 'device_name')}"
    required = bounds.require_device or device_kind
    yield Check(f"{kind} device", name, required, passed(device_kind == required and text(env, "device_name") != ""))
    placed = text(env, "parameters_device")
    yield Check(f"{kind} weights on", placed, device, passed(placed == device))
    if device_kind == "npu" and not is_simulated(env):
        versions = f"torch_npu {env.get('torch_npu')}, CANN {env.get('cann')}"
        known = isinstance(env.get("torch_npu"), str) and isinstance(env.get("cann"), str)
        yield Check(f"{kind} NPU software", versions, "both known", Verdict.PASS if known else Verdict.CANNOT_JUDGE)

    source = text(model, "weights_source")
    allowed = source != "random" or bounds.allow_random_weights
    bound = "any" if bounds.allow_random_weights else "not random"
    yield Check(f"{kind} weights", source, bound, Verdict.PASS if allowed else Verdict.CANNOT_JUDGE)
    misfits = [number(model, "missing_keys"), number(model, "unexpected_keys")]
    yield Check(f"{kind} misfit keys", f"{max(misfits):g}", "0", passed(misfits == [0, 0]))
    foreign = [event for other, events in OWN_EVENTS.items() for event in events if other != kind and run.events(event)]
    if foreign:
        yield Check(f"{kind} records", f"{foreign[0]} among them", "its own", Verdict.CANNOT_JUDGE)


def check_numerics(run: Run) -> Iterator[Check]:
    """Strict evidence shows a probe that agrees, over the operators of the model; a CPU reference always does."""
    model, found, kind = one(run, "model"), one(run, "numerics"), KIND[run.start["script"]]
    operators, reference, dtype = model.get("operators"), found.get("reference"), text(model, "dtype")
    known = {"conv", "matmul", "attention", "gelu", "gelu_tanh"}
    named = isinstance(operators, list) and operators and set(map(str, operators)) <= known
    if not named or not isinstance(operators, list) or dtype not in formulas.MANTISSA_BITS:
        raise UnjudgeableError("model record: operators or dtype are not those of a numerics probe")
    if not isinstance(reference, dict):
        raise UnjudgeableError("numerics record: no probe of the reference")
    strict = text(model, "numerics") == "strict"
    faults = formulas.probe_contradictions(found, operators, dtype)
    value, bound = "; ".join(faults) or f"as {dtype} asks", "as asked" if strict else "any: fast numerics"
    yield Check(f"{kind} probe of the device", value, bound, passed(not (strict and faults)))
    faults = formulas.probe_contradictions(reference, operators, "float32")
    yield Check(f"{kind} probe of the CPU", "; ".join(faults) or "as float32 asks", "as asked", passed(not faults))
