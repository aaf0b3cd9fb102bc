"""Numerics: making a device compute what the model asks, and probing what it really computes.

An accelerator's float32 is not always float32. Ascend's convolution rounds its operands to HF32 by default, and its
native GELU (aclnnGelu) computes the tanh approximation whatever is asked; CUDA has TF32. `strict` switches reduced
precision off where a switch is documented and computes GELU by `torch_npu.npu_gelu` (aclnnGeluV2, which does what is
asked), or by its formula where that does not help; `fast` leaves the device's defaults. Neither is taken on trust: the
probe measures what is in force.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from common.device.devices import device_module, dtype_name, failures_of
from common.errors import UserError
from common.log import events
from common.log.events import Probe
from common.log.formulas import MANTISSA_BITS, probe_contradictions
from common.log.writer import RunLog

PROBED_BITS = MANTISSA_BITS["float32"]
CUBE = 64  # the probed matrices' size: enough for the matrix units, where a vector unit might be exact

# The kinds of operators that the probe covers, by the names of the functions that compute them.
KINDS = {
    "conv": {"conv1d", "conv2d", "conv3d"},
    "matmul": {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"},
    "attention": {"scaled_dot_product_attention"},
}
# Functions that hide both products and the attention from a mode: they are computed without it.
WHOLE_ATTENTION = {"multi_head_attention_forward", "_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


# ------------------------------------------------------------------------------------------------------ the probe
def probe(device: torch.device, dtype: torch.dtype) -> Probe:
    """Measure what the device computes: 1 + 2^-k through conv, matmul and attention, and GELU on [-4, 4]."""
    return Probe(
        conv_mantissa_bits=_mantissa_bits(_through_conv, device, dtype),
        matmul_mantissa_bits=_mantissa_bits(_through_matmul, device, dtype),
        attention_mantissa_bits=_mantissa_bits(_through_attention, device, dtype),
        gelu=_gelu_kind("none", device, dtype),
        gelu_tanh=_gelu_kind("tanh", device, dtype),
    )


def _mantissa_bits(operator: Callable[[Tensor], Tensor], device: torch.device, dtype: torch.dtype) -> int:
    """The largest k up to which every 1 + 2^-k comes back within 2^-(k+1), half of what tells it from 1.

    23 are exact float32; an operator that is off by one ulp of it shows 22, HF32 11, TF32 and float16 10, bfloat16 7.
    """
    exact = 1 + 2.0 ** -torch.arange(1, PROBED_BITS + 1, dtype=torch.float64)
    with torch.inference_mode():
        returned = operator(exact.to(dtype).to(device)).cpu().double()
    near = (returned - exact).abs() <= (exact - 1) / 2
    return int(near.int().cumprod(dim=0).sum())


def _through_conv(values: Tensor) -> Tensor:
    """As a patch embedding: each value is a pixel of a patch of its own, and the kernel picks that pixel."""
    pixels = torch.zeros(1, 3, 14, 14 * len(values), dtype=values.dtype, device=values.device)
    pixels[0, 0, 0, ::14] = values
    kernel = torch.zeros(CUBE, 3, 14, 14, dtype=values.dtype, device=values.device)
    kernel[:, 0, 0, 0] = 1
    return F.conv2d(pixels, kernel, stride=14)[0, 0, 0]


def _through_matmul(values: Tensor) -> Tensor:
    """A matrix with the values in its first column, times the identity."""
    return (_in_first_column(values) @ torch.eye(CUBE, dtype=values.dtype, device=values.device))[: len(values), 0]


def _through_attention(values: Tensor) -> Tensor:
    """Every query finds its own key alone: the softmax is one-hot, and the values come back."""
    query = 32 * torch.eye(CUBE, dtype=values.dtype, device=values.device)[None, None]
    return F.scaled_dot_product_attention(query, query, _in_first_column(values)[None, None])[0, 0, : len(values), 0]


def _in_first_column(values: Tensor) -> Tensor:
    matrix = torch.zeros(CUBE, CUBE, dtype=values.dtype, device=values.device)
    matrix[: len(values), 0] = values
    return matrix


def _gelu_kind(approximate: str, device: torch.device, dtype: torch.dtype) -> str:
    """`erf` or `tanh`, whichever GELU computes to the rounding of `dtype`; `other` for neither.

    The two are 4.7e-4 apart at most, near x = -2.3, where the values are small enough for 16 bits to tell them apart.
    """
    x = torch.linspace(-4, 4, 1601, dtype=torch.float64).to(dtype)
    with torch.inference_mode():
        found = F.gelu(x.to(device), approximate=approximate).cpu().double()
    expected = {"erf": gelu_erf(x.double()), "tanh": gelu_tanh(x.double())}
    tolerance = float((expected["erf"] - expected["tanh"]).abs().max()) / 10
    for kind, values in expected.items():
        rounding = values.abs() * torch.finfo(dtype).eps / 2
        if bool(((found - values).abs() <= rounding + tolerance).all()):
            return kind
    return "other"


# ------------------------------------------------------------------------------------------------- GELU's formulas
def gelu_erf(x: Tensor) -> Tensor:
    """x Phi(x), what `approximate="none"` asks for (torch.nn.GELU)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation that `approximate="tanh"` asks for (torch.nn.GELU)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@contextmanager
def gelu_by(function: Callable[[Tensor, str], Tensor], device_type: str) -> Iterator[None]:
    """Every GELU on one kind of device is computed by a function of (x, approximate) inside the block.

    It stands in the dispatcher, in the place of the device's kernel: every caller reaches it, and no other operator
    pays for it, as it would for a mode of Python's.
    """
    kernels: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    key = "PrivateUse1" if device_type == "npu" else device_type.upper()
    try:
        kernels.impl("gelu", lambda x, *, approximate="none": function(x, approximate), key)
        yield
    finally:
        kernels._destroy()


def npu_gelu(x: Tensor, approximate: str) -> Tensor:
    """torch_npu's own: one kernel, aclnnGeluV2, which honours `approximate` (in torch_npu since 2.6)."""
    torch_npu: Any = importlib.import_module("torch_npu")
    found: Tensor = torch_npu.npu_gelu(x, approximate=approximate)
    return found


def gelu_by_formula(x: Tensor, approximate: str) -> Tensor:
    """In float32 at least."""
    formula = gelu_tanh if approximate == "tanh" else gelu_erf
    return formula(x.float()).to(x.dtype) if x.dtype != torch.float64 else formula(x)


class OperatorTrace(TorchFunctionMode):
    """Collect which of the probed kinds of operators a model computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "gelu":
            self.operators.add("gelu_tanh" if kwargs.get("approximate", "none") == "tanh" else "gelu")
        elif name in WHOLE_ATTENTION:
            self.operators |= {"matmul", "attention"}
        elif name in KIND_OF:
            self.operators.add(KIND_OF[name])
        return func(*args, **kwargs)


# -------------------------------------------------------------------------------------------------- what is in force
@dataclass
class Numerics:
    """What the device was asked to compute (`mode`: strict or fast) and was found to compute."""

    mode: str
    device: torch.device
    dtype: torch.dtype
    probe: Probe
    reference_probe: Probe  # of the CPU in float32, which has reduced modes of its own
    gelu_by: str | None  # what GELU was replaced by: npu_gelu or formula
    operators: set[str] = field(default_factory=set)

    def report(self, log: RunLog) -> None:
        """Print and record the probe."""
        found = self.probe
        replaced = {"npu_gelu": ", by torch_npu.npu_gelu", "formula": ", by its formula", None: ""}[self.gelu_by]
        log.line(
            f"Numerics: {self.mode} (mantissa bits: conv {found.conv_mantissa_bits}, matmul "
            f"{found.matmul_mantissa_bits}, attention {found.attention_mantissa_bits}; GELU: {found.gelu}{replaced})"
        )
        log.record(self.event)

    @property
    def event(self) -> events.Numerics:
        replaced = self.gelu_by is not None
        return events.Numerics(
            probe=self.probe, gelu_replaced=replaced, gelu_by=self.gelu_by, reference=self.reference_probe
        )

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Collect the operators of the forwards inside; then hold the probes to what they need.

        Raises UserError when the device contradicts `strict`, or the CPU float32, over operators of the model.
        """
        with OperatorTrace() as trace:
            yield
        self.operators |= trace.operators
        faults = probe_contradictions(self.probe, sorted(self.operators), dtype_name(self.dtype))
        if self.mode == "strict" and faults:
            raise UserError(
                f"--numerics strict, but on {self.device} {'; '.join(faults)}; --numerics fast takes it as it is"
            )
        faults = probe_contradictions(self.reference_probe, sorted(self.operators), "float32")
        if faults:
            raise UserError(f"the CPU is no float32 reference: {'; '.join(faults)} (see ONEDNN_DEFAULT_FPMATH_MODE)")


@contextmanager
def in_force(mode: str, device: torch.device, dtype: torch.dtype) -> Iterator[Numerics]:
    """Put `strict` or `fast` in force for the block, and probe the device and the CPU."""
    cpu = torch.device("cpu")
    torch.set_float32_matmul_precision("highest")  # of the CPU reference, whatever the mode
    if mode == "strict":
        switch_reduced_precision_off(device)
    with ExitStack() as stack:
        with failures_of(device, "in the probe of its numerics"):
            found, replacement = probe(device, dtype), None
            if mode == "strict" and device != cpu and not _gelu_is_right(found):
                found, replacement = _replace_gelu(stack, found, device, dtype)
        reference = found if (device, dtype) == (cpu, torch.float32) else probe(cpu, torch.float32)
        if device.type == "npu":
            stack.enter_context(without_fused_encoder_layers())
        yield Numerics(mode, device, dtype, found, reference, replacement)


@contextmanager
def without_fused_encoder_layers() -> Iterator[None]:
    """nn.MultiheadAttention without its fast path, which an NPU computes on the CPU and says nothing of it."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _gelu_is_right(found: Probe) -> bool:
    return (found.gelu, found.gelu_tanh) == ("erf", "tanh")


def _replace_gelu(
    stack: ExitStack, native: Probe, device: torch.device, dtype: torch.dtype
) -> tuple[Probe, str | None]:
    """Put the first replacement that computes what is asked in force until the stack ends, and probe again."""
    own = {"npu_gelu": npu_gelu} if device.type == "npu" else {}
    for name, function in {**own, "formula": gelu_by_formula}.items():
        with ExitStack() as attempt:
            attempt.enter_context(gelu_by(function, device.type))
            try:
                found = probe(device, dtype)
            except (RuntimeError, AttributeError):  # an older CANN or torch_npu without it
                continue
            if _gelu_is_right(found):
                stack.push(attempt.pop_all())
                return found, name
    return native, None


def switch_reduced_precision_off(device: torch.device) -> None:
    """HF32 and TF32 off, by the documented switches.

    TORCH_NPU_USE_COMPATIBLE_IMPL would mend GELU too, but it changes convolution, pooling, LayerNorm and attention with
    it, to operators that not every chip and CANN has: it is left as the user has it.
    """
    for kind in ("conv", "matmul"):
        if switch := _switch(device, kind):
            setattr(*switch, False)


def _switch(device: torch.device, kind: str) -> tuple[Any, str] | None:
    """The object and its attribute that allow a kind of operator, conv or matmul, less than float32."""
    if device.type == "npu":
        return getattr(device_module(device), kind), "allow_hf32"
    if device.type == "cuda":
        return torch.backends.cudnn if kind == "conv" else torch.backends.cuda.matmul, "allow_tf32"
    return None


def allows_reduced_precision(device: torch.device, kind: str) -> bool:
    """Whether a device may compute `conv` or `matmul` in less than float32, by its own switch."""
    switch = _switch(device, kind)
    return switch is not None and bool(getattr(*switch))


@contextmanager
def full_precision(device: torch.device, kind: str) -> Iterator[None]:
    """The device's `conv` or `matmul` in float32 inside the block."""
    switch = _switch(device, kind)
    before = switch and getattr(*switch)
    if switch:
        setattr(*switch, False)
    try:
        yield
    finally:
        if switch:
            setattr(*switch, before)
