"""The checks of what runs share: code, libraries, device, weights and numerics, and that these may be judged at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from common.log import formulas
from common.log.events import PACKAGES, Env, Model, Numerics
from common.log.reader import Run, UnjudgeableError
from common.verdict.evidence import KIND, Bounds, Check, facts_of, judgeable, passed

# What the runs of one verdict must have in common, beside weights, dtype and device.
COMMON_FACTS = (
    *("code_sha256", "device_name", "simulated", "python", "platform", "cpu_model", "cann", *PACKAGES),
    *("npu_driver", "allow_hf32", "fallback_disabled", "task_queue_enable", "visible_devices"),
    *("model", "library", "architecture", "params", "left_out_keys", "input_size", "preprocess"),
    *("operators", "classifier", "embedding_is", "weights_changes", "structure"),
)
PROBED = {"conv", "matmul", "attention", "gelu", "gelu_tanh"}  # the operators that a probe covers


def check_common_facts(group: Sequence[Run]) -> Check:
    """Code, libraries, device and preprocessing are the same in all runs."""
    facts, different = [facts_of(run) for run in group], []
    for key in COMMON_FACTS:
        values = [json.dumps(each.get(key, "missing"), sort_keys=True) for each in facts]
        if len(set(values)) > 1:  # as text: in Python 1, 1.0 and true are equal
            different.append(f"{key} differs: {' / '.join(value[:24] for value in values)}")
    value = "; ".join(different) or "code, versions, device"
    return Check("same setting", value, "equal in all runs", judgeable(not different))


def check_setting(run: Run, bounds: Bounds) -> Iterator[Check]:
    """What was run, and on what."""
    env, model, kind = run.one(Env), run.one(Model), KIND[run.script]
    required = bounds.require_device or env.kind
    verdict = passed(env.kind == required and env.device_name != "")
    yield Check(f"{kind} device", f"{env.device} {env.device_name}", required, verdict)
    verdict = passed(env.parameters_device == env.device)
    yield Check(f"{kind} weights on", env.parameters_device, env.device, verdict)
    if env.kind == "npu" and not env.is_simulated:
        torch_npu, cann = env.host.packages.torch_npu, env.host.cann
        verdict = judgeable(torch_npu is not None and cann is not None)
        yield Check(f"{kind} NPU software", f"torch_npu {torch_npu}, CANN {cann}", "both known", verdict)

    bound = "any" if bounds.allow_random_weights else "not random"
    verdict = judgeable(model.weights_source != "random" or bounds.allow_random_weights)
    yield Check(f"{kind} weights", model.weights_source, bound, verdict)
    misfits = (model.missing_keys, model.unexpected_keys)
    yield Check(f"{kind} misfit keys", f"{max(misfits)}", "0", passed(misfits == (0, 0)))


def check_numerics(run: Run) -> Iterator[Check]:
    """Strict evidence shows a probe that agrees, over the operators of the model; a CPU reference always does."""
    model, found, kind = run.one(Model), run.one(Numerics), KIND[run.script]
    if not model.operators or not PROBED.issuperset(model.operators):
        raise UnjudgeableError("model record: operators are not those of a numerics probe")
    strict = model.numerics == "strict"
    faults = formulas.probe_contradictions(found.probe, model.operators, model.dtype)
    value, bound = "; ".join(faults) or f"as {model.dtype} asks", "as asked" if strict else "any: fast numerics"
    yield Check(f"{kind} probe of the device", value, bound, passed(not (strict and faults)))
    faults = formulas.probe_contradictions(found.reference, model.operators, "float32")
    yield Check(f"{kind} probe of the CPU", "; ".join(faults) or "as float32 asks", "as asked", passed(not faults))
