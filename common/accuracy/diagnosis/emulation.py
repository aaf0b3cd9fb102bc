"""Emulation: computing on the CPU what a device may compute differently, under one of the known causes or several.

It computes in float32 and rounds operands and results; it never uses the CPU's own half-precision kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from common.device.devices import Outputs
from common.device.numerics import KIND_OF
from common.log.conclusions import CAUSES
from common.log.formulas import MANTISSA_BITS

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
HF32_BITS = 11
FLOAT32_BITS = MANTISSA_BITS["float32"]

# Functions that move or describe values and compute none. Their operands are left alone: a view of a rounded copy would
# not share the memory that a later in-place operator writes to.
MOVES = frozenset(
    {"__get__", "__getitem__", "_assert", "detach", "dim", "numel", "size"}
    | {"chunk", "contiguous", "expand", "expand_as", "flatten", "narrow", "permute", "reshape", "select", "split"}
    | {"squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as"}
)
IN_PLACE = frozenset({"__setitem__", "__iadd__", "__imul__", "__isub__", "__itruediv__"})

Run = Callable[[], Outputs]


def emulate(run: Run, cause: str, seed: int | None = None, attention_bits: int = HF32_BITS) -> Outputs:
    """What `run` computes on the CPU in float32 under a cause, or several joined by `+`.

    With a `seed` the last bits of every result are disturbed, as another device's order of accumulation would.
    `attention_bits` are the mantissa bits that the device's attention keeps under matmul_hf32, as its probe found them:
    a fused kernel may keep all.
    Raises ValueError for a cause that is not known.
    """
    with Emulation(cause, seed, attention_bits):
        return run()


def round_mantissa(x: Tensor, bits: int) -> Tensor:
    """float32 `x` rounded to `bits` mantissa bits, to the nearest, halves away from zero; NaN and infinity unchanged.

    CANN knows both treatments of halves for HF32 (`SetHF32TransMode`). One value in 2^(23 - bits) is a half.
    """
    dropped = FLOAT32_BITS - bits
    steps = x.contiguous().view(torch.int32)
    rounded = (steps + (1 << (dropped - 1))) & ~((1 << dropped) - 1)
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rounded: Callable[[Tensor], Tensor],
) -> Tensor:
    """softmax(q k^T scale + mask) v by its formula, [B, H, T, D], the operands of both products `rounded`.

    The formula and the parameters are those of torch's scaled_dot_product_attention; dropout has no part in inference.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = rounded(query) @ rounded(key).transpose(-2, -1) * factor
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return rounded(scores.softmax(dim=-1)) @ rounded(value)


class Emulation(TorchFunctionMode):
    """Compute as a device would under a cause, or several joined by `+`.

    - `conv_hf32`: the operands of convolutions are rounded to 11 mantissa bits, biases are not.
    - `matmul_hf32`: the same for matrix products. Attention counts as its two products with a float32 softmax between
      them, as it is computed where no fused kernel takes float32; their operands keep `attention_bits`.
    - `gelu_tanh`: a GELU with `approximate="none"` computes the tanh approximation.
    - `float16`, `bfloat16`: every operand, weights included, and every result is rounded to the dtype; attention keeps
      its scores in float32 and rounds the weights of its values, as fused kernels do.
    """

    def __init__(self, cause: str, seed: int | None = None, attention_bits: int = HF32_BITS) -> None:
        super().__init__()
        causes = set(cause.split("+"))
        if not causes <= CAUSES.keys():
            raise ValueError(f"no such cause: {cause}; known: {', '.join(CAUSES)}")
        kinds = {"conv_hf32": {"conv"}, "matmul_hf32": {"matmul", "attention"}}
        self.hf32_kinds = {kind for name in causes & kinds.keys() for kind in kinds[name]}
        if attention_bits >= FLOAT32_BITS:
            self.hf32_kinds.discard("attention")
        self.attention_bits = attention_bits
        self.gelu_tanh = "gelu_tanh" in causes
        self.dtype = next((DTYPES[name] for name in sorted(causes & DTYPES.keys())), None)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return _seen_from_inside(func)(*args, **kwargs)
        if name in MOVES:
            return func(*args, **kwargs)
        if name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            result = self._compute(func, name, (args[0], *self._stored(args[1:])), self._stored(kwargs))
            args[0].copy_(self._finished(args[0]))
            return result
        return self._finished(self._compute(func, name, self._stored(args), self._stored(kwargs)))

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        kind = KIND_OF.get(name)
        if kind == "attention" and (self.dtype is not None or kind in self.hf32_kinds):
            return attention(*args, **kwargs, rounded=self._operand)
        if kind in self.hf32_kinds:
            return func(*_factors(name, args), **{key: _hf32(value, key) for key, value in kwargs.items()})
        if name == "gelu" and self.gelu_tanh:
            return F.gelu(args[0], approximate="tanh")
        return func(*args, **kwargs)

    def _operand(self, x: Tensor) -> Tensor:
        """An operand of one of attention's products."""
        return self._store(x) if self.dtype is not None else round_mantissa(x, self.attention_bits)

    def _finished(self, results: Any) -> Any:
        """Results with their last bits disturbed, where asked, and stored in the dtype."""
        if self.generator is not None:
            results = tree_map_only(Tensor, self._disturb, results)
        return self._stored(results)

    def _stored(self, values: Any) -> Any:
        return values if self.dtype is None else tree_map_only(Tensor, self._store, values)

    def _store(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).to(torch.float32) if x.dtype == torch.float32 else x

    def _disturb(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return x
        noise = torch.randn(x.shape, generator=self.generator)
        return x * (1 + torch.finfo(torch.float32).eps * noise)


def _factors(name: str, args: Sequence[Any]) -> list[Any]:
    """The arguments of a convolution or matrix product, its factors in HF32; what is added stays as it is."""
    added = {"addmm": 0, "baddbmm": 0, "einsum": None}.get(name, 2)
    return [value if place == added else _hf32(value) for place, value in enumerate(args)]


def _hf32(values: Any, name: str = "") -> Any:
    if name == "bias":
        return values
    return tree_map_only(Tensor, lambda x: round_mantissa(x, HF32_BITS) if x.dtype == torch.float32 else x, values)


def _seen_from_inside(func: FunctionType) -> FunctionType:
    """A function of torch's that is written in Python, such that a mode sees the operators that it calls.

    torch hands the whole function to a mode and computes it without the mode. Without that first step it is plain code.
    """
    unnoticed = {**func.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(func.__code__, unnoticed, func.__name__, func.__defaults__, func.__closure__)
