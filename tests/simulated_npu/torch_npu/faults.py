"""Faults on request, so that a check can be shown to notice them.

SIMULATED_NPU_FAULT is a comma-separated list of ``operator:kind[;selector=value]...``:
    gelu:nan    layer_norm:scale=1.02    attention:zero;head=3;call=11    linear:oom;batch=8

Operators are ATen names; a name covers the in-place variant too.  The names of a family mean one
another, since which of them runs depends on torch: see FAMILIES.  ``attention`` is
scaled_dot_product_attention; a model with eager attention runs ``softmax`` and ``bmm`` instead.

Kinds, applied to the operator's first floating-point result:
    nan, inf   one element, the first, becomes NaN or infinite
    zero       every element becomes 0
    scale=F    every element is multiplied by F
    noise=F    normal noise of F times the result's RMS is added; equal in every forward
    raise      RuntimeError, as from a failing kernel
    oom        torch.OutOfMemoryError
    fallback   the operator runs on the CPU: torch_npu's warning on stderr once for each operator
               and a synchronisation, or an error under TORCH_NPU_FALLBACK_CPU_DISABLE=1

Selectors of the call, all of which must match:
    call=K     only the K-th call (from 0) of the operator in an outermost nn.Module forward
    forward=K  only the K-th (from 0) outermost forward that uses a device
    batch=N    only when the first tensor given to the outermost module has N as leading dimension
    module=M   only while a module is running whose qualified name is M or ends with .M, such as
               blocks.5 or layers.11.  The names are those in the outermost module that a module was
               first called with: a block keeps its name when it is run alone after a forward of the
               whole model.  With it, call=K counts the calls inside such modules
Selectors of the part of the result that nan, inf, zero, scale and noise change:
    sample=K   index K of dimension 0
    head=K     index K of dimension 1 of a 4-D result, as attention's [B, heads, T, D]
    token=K    index K of the last dimension but one, as in [B, T, D]
A fault whose part a result does not have does not fire.

``to:stay`` is special: nn.Module.to(an npu device) silently leaves the module where it is.

Every other fault fires only inside an nn.Module forward: a numerics probe that calls plain
functions sees a healthy device.  How often each fired is in the report (report.py).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from torch_npu.device import Device
from torch_npu.module_forward import outermost, tensors_in
from torch_npu.report import activity
from torch_npu.settings import settings

FAMILIES = (
    frozenset({"gelu", "npu_gelu"}),
    frozenset({"layer_norm", "native_layer_norm"}),
    frozenset({"attention", "scaled_dot_product_attention"}),
    frozenset({"conv", "conv1d", "conv2d", "conv3d", "convolution"}),
    frozenset({"linear", "addmm", "mm"}),
    frozenset({"softmax", "_softmax"}),
)
VALUE_KINDS = {"nan", "inf", "zero", "scale", "noise"}
CALL_KINDS = {"raise", "oom", "fallback"}
CALL_SELECTORS = {"call", "forward", "batch"}
PART_SELECTORS = {"sample", "head", "token"}


@dataclass(frozen=True)
class Fault:
    """One entry of SIMULATED_NPU_FAULT."""

    spec: str  # as written; the key in the report
    operators: frozenset[str]
    kind: str
    amount: float  # of scale and noise
    selectors: dict[str, int]
    module: str = ""  # the selector of that name; "" for any module

    def selects_call(self, operator: str) -> bool:
        """Whether this call of ``operator`` is one the fault is meant for; counts the calls."""
        if not outermost.depth or operator.rstrip("_") not in self.operators:
            return False
        if self.module and not outermost.is_inside(self.module):
            return False
        now = {
            "call": outermost.fault_calls[self.spec],
            "forward": outermost.index,
            "batch": outermost.batch_size,
        }
        outermost.fault_calls[self.spec] += 1
        return all(self.selectors.get(name, value) == value for name, value in now.items())

    def change(self, result: torch.Tensor) -> bool:
        """Apply a value kind to ``result`` in place; False when there is nothing to change."""
        part = self._part(result)
        if part is None or not part.numel():
            return False
        if self.kind in ("nan", "inf"):
            part[(0,) * part.dim()] = float(self.kind)
        elif self.kind == "zero":
            part.zero_()
        elif self.kind == "scale":
            part.mul_(self.amount)
        elif self.kind == "noise":
            # Seeded by the call: layers differ from one another, repeated forwards do not.
            generator = torch.Generator().manual_seed(outermost.fault_calls[self.spec])
            noise = torch.randn(part.shape, generator=generator)
            part.add_((noise * part.float().square().mean().sqrt() * self.amount).to(part.dtype))
        return True

    def _part(self, result: torch.Tensor) -> torch.Tensor | None:
        dimensions = {"sample": 0, "head": 1 if result.dim() == 4 else None, "token": result.dim() - 2}
        for name in PART_SELECTORS & self.selectors.keys():
            index, dimension = self.selectors[name], dimensions[name]
            if dimension is None or not 0 <= dimension < result.dim() or index >= result.shape[dimension]:
                return None
            result = result.narrow(dimension, index, 1)
        return result


def parse(text: str) -> tuple[Fault, ...]:
    """The faults that SIMULATED_NPU_FAULT asks for; ValueError names what it does not understand."""
    return tuple(_parse_one(spec.strip()) for spec in text.split(",") if spec.strip())


def _parse_one(spec: str) -> Fault:
    head, *selector_texts = spec.split(";")
    operator, _, kind_text = head.partition(":")
    kind, _, amount = kind_text.partition("=")
    if (operator == "to") != (kind == "stay"):
        raise ValueError(f"fault {spec!r}: 'stay' and 'to' only make sense as to:stay")
    if kind not in VALUE_KINDS | CALL_KINDS | {"stay"}:
        raise ValueError(f"fault {spec!r}: unknown kind {kind!r}")
    if bool(amount) != (kind in ("scale", "noise")):
        raise ValueError(f"fault {spec!r}: scale and noise take a number, the other kinds do not")
    operator = operator.rstrip("_")
    operators = next((family for family in FAMILIES if operator in family), frozenset({operator}))
    if not any(hasattr(torch.ops.aten, name) for name in operators):
        raise ValueError(f"fault {spec!r}: unknown operator {operator!r}")
    selectors = {}
    module = ""
    for text in selector_texts:
        name, _, value = text.partition("=")
        allowed = CALL_SELECTORS | PART_SELECTORS if kind in VALUE_KINDS else CALL_SELECTORS
        if name not in allowed | {"module"} or kind == "stay":
            raise ValueError(f"fault {spec!r}: selector {name!r} does not apply")
        if name == "module":
            if not value:
                raise ValueError(f"fault {spec!r}: module takes a module's name")
            module = value
            continue
        if not value.isdecimal():
            raise ValueError(f"fault {spec!r}: {name} takes a number from 0")
        selectors[name] = int(value)
    return Fault(spec, operators, kind, float(amount or 0), selectors, module)


FAULTS = parse(settings.fault)
activity.faults.update({fault.spec: 0 for fault in FAULTS})  # so that the report shows what never fired
_warned_operators: set[str] = set()


def modules_stay_on_the_cpu() -> bool:
    """Whether to:stay was asked for; counts it as fired."""
    stay = [fault for fault in FAULTS if fault.kind == "stay"]
    activity.faults.update(fault.spec for fault in stay)
    return bool(stay)


def for_call(operator: str) -> list[Fault]:
    """The faults that this call of ``operator`` is to suffer."""
    return [fault for fault in FAULTS if fault.selects_call(operator)]


def before_kernel(faults: Iterable[Fault], operator: str, device: Device) -> None:
    """Fire those of ``faults`` that concern the call: raise, oom and fallback."""
    for fault in faults:
        if fault.kind not in CALL_KINDS:
            continue
        activity.faults[fault.spec] += 1
        if fault.kind == "raise":
            raise RuntimeError(f"call aclnn{operator} failed, detail: EZ9999: Inner Error! (simulated fault)")
        if fault.kind == "oom":
            raise device.out_of_memory(device.capacity - device.allocated + 1)
        fall_back(operator, device)


def after_kernel(faults: Iterable[Fault], result: object) -> None:
    """Fire those of ``faults`` that change the result, on its first floating-point tensor."""
    tensor = next((t for t in tensors_in([result]) if t.is_floating_point()), None)
    for fault in faults:
        if fault.kind in VALUE_KINDS and tensor is not None and fault.change(tensor):
            activity.faults[fault.spec] += 1


def fall_back(operator: str, device: Device) -> None:
    """An operator without a kernel of the device's: torch_npu's error or warning, and a wait."""
    if settings.cpu_fallback_disabled:
        raise RuntimeError(
            f"The operator 'aten::{operator}' would execute its main computation on CPU through "
            "dispatcher backend fallback, but CPU fallback is disabled by "
            "TORCH_NPU_FALLBACK_CPU_DISABLE=1."
        )
    if operator not in _warned_operators:
        _warned_operators.add(operator)
        # torch_npu warns from C++: the text goes to the process's stderr, not to Python's warnings.
        message = (
            f"[W compiler_depend.ts:51] Warning: CAUTION: The operator 'aten::{operator}' is not "
            "currently supported on the NPU backend and will fall back to run on the CPU. This may "
            "have performance implications. (function npu_cpu_fallback)\n"
        )
        os.write(2, message.encode())
    device.wait()  # the inputs have to be copied to the host first
