"""``torch.autocast("npu")``: matrix products in the low precision, normalisations in fp32."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
_KEY = "AutocastPrivateUse1"
_LOW_PRECISION = (
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.scaled_dot_product_attention.default,
)
_FP32 = (aten.layer_norm.default, aten.group_norm.default)
_libraries: list[torch.library.Library] = []  # registrations live as long as these objects


def register() -> None:
    """Tell torch what autocast does to the device's operators; it leaves the others alone."""
    everything = torch.library.Library("_", "IMPL")
    library = torch.library.Library("aten", "IMPL")
    _libraries.extend((everything, library))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of every kernel that replaces another
        everything.fallback(torch.library.fallthrough_kernel, _KEY)
        for op in _LOW_PRECISION:
            library.impl(op, _with_inputs_cast(op, low_precision=True), _KEY)
        for op in _FP32:
            library.impl(op, _with_inputs_cast(op, low_precision=False), _KEY)


def _with_inputs_cast(op: Any, *, low_precision: bool) -> Callable[..., Any]:
    without_autocast = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

    def cast(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(torch.get_autocast_dtype("npu") if low_precision else torch.float32)
        return value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without_autocast):
            return op(*[cast(arg) for arg in args], **{name: cast(arg) for name, arg in kwargs.items()})

    return run
