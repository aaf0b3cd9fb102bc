"""Repeatability: whether a device gives the same for an image again, alone and beside another image."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.accuracy import metrics
from common.device import devices
from common.device.devices import Outputs
from common.log import formulas
from common.log.events import OUTPUTS, Repeat
from common.log.figures import percent
from common.session import Session


def repeat(
    running: Session, module: nn.Module, pixel_values: Tensor, first: Outputs, image: str, image_sha256: str
) -> list[Repeat]:
    """The first of pixel_values [N, 3, H, W] through the device twice more, beside its `first` outputs on the host,
    those of its batch, [B, D] and [B, T, C].

    In the batch another image is before it: the second, or where there is none the first in a mirror.
    """
    alone = pixel_values[:1]
    other = pixel_values[1:2] if len(pixel_values) > 1 else alone.flip(-1)
    ways = {"alone": alone, "batch": torch.cat([other, alone])}
    found = []
    for way, batch in ways.items():
        outputs = devices.encode(module, batch.to(running.device, running.dtype))
        for output, before, again in zip(OUTPUTS, first, outputs, strict=True):
            y, y_again = before[0], again[-1].cpu()
            found.append(
                Repeat(
                    way=way,
                    output=output,
                    image=image,
                    image_sha256=image_sha256,
                    batch_size=len(batch),
                    place=len(batch) - 1,
                    first_batch_size=len(before),
                    relative_l2=metrics.compare(y, y_again).relative_l2,
                    equal=same_bits(y, y_again),
                )
            )
    return found


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype and shape are the same to the last bit: NaN may be, and -0 is not 0."""
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))


def report(running: Session, repeats: Sequence[Repeat], expected: Mapping[str, float | None]) -> bool:
    """Print and record them; True where all are within rounding. `expected` is what it costs each output."""
    log, dtype = running.log, devices.dtype_name(running.dtype)
    passed = True
    log.line()
    for way, found in itertools.groupby(repeats, lambda each: each.way):
        words = []
        for each in found:
            allowed = formulas.repeat_bound(dtype, running.numerics.mode, expected.get(each.output))
            within = formulas.size_of(each.relative_l2) <= allowed
            passed &= within
            words.append(f"{each.output} {_in_words(each, f'within {percent(allowed)}' if within else 'FAIL')}")
            log.record(each)
        log.line(f"{each.image} again, {'alone' if way == 'alone' else 'behind another image'}: {', '.join(words)}")
    return passed


def _in_words(found: Repeat, judged: str) -> str:
    if found.equal:
        return "equal to the bit"
    return f"not equal to the bit, relative_l2 {percent(found.relative_l2)} ({judged})"
