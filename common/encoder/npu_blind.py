"""transformers without a view of the NPU, so that a model on the CPU computes the same with an NPU beside it or none.

From 5.10 on, transformers makes every additive attention mask a boolean one as soon as it finds torch_npu, for CPU
tensors too (huggingface/transformers#48843): the position biases of Swin and BEiT are lost, on the device and in the
reference alike. And it imports torch_npu where it finds the package, even where that can't start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.errors import UserError

TORCH_NPU = "torch_npu"


def import_transformers() -> Any:
    """transformers, convinced that there is no NPU, whenever it was imported. Raises UserError where it is not."""
    with _hidden(TORCH_NPU):
        import transformers
        from transformers.utils import import_utils

        for name in ("_is_package_available", "is_torch_npu_available"):
            remembered: Any = getattr(import_utils, name)
            if hasattr(remembered, "cache_clear"):
                remembered.cache_clear()
        import_utils.is_torch_npu_available()  # and it remembers that there is none
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get("_is_torch_npu_available"):
            module._is_torch_npu_available = False  # type: ignore[attr-defined]
    _require_additive_masks(sdpa_attention_forward, transformers.__version__)
    return transformers


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Inside the block the package can't be found, imported before or not."""
    absent = object()
    before = sys.modules.get(package, absent)
    sys.modules[package] = None  # type: ignore[assignment]  # what importlib takes for: there is none
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[package]
        else:
            sys.modules[package] = before  # type: ignore[assignment]


def _require_additive_masks(attention: Any, version: str) -> None:
    """Raise UserError where an attention loses the values of its mask: -1 and 0 must weigh 1 / (1 + e)."""
    query = torch.zeros(1, 1, 1, 2)
    value = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1)
    mask = torch.tensor([-1.0, 0.0]).reshape(1, 1, 1, 2)
    with torch.inference_mode():
        found, _ = attention(torch.nn.Identity(), query, torch.zeros(1, 1, 2, 2), value, mask, is_causal=False)
    expected = torch.tensor([-1.0, 0.0]).softmax(0)[0]
    if not torch.allclose(found.flatten(), expected, atol=1e-3):
        raise UserError(
            f"transformers {version} loses additive attention masks beside torch_npu: neither the device nor the CPU "
            "would compute what the model asks"
        )
