"""The diagnosis in words: each conclusion from the events that lead to it, in both languages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.events import example

from common.log.conclusions import Words, conclude_blocks, conclude_causes
from common.log.events import Cause, Event, Layer, Model
from common.log.formulas import rounding_of
from common.log.reader import UnjudgeableError
from common.log.schema import MisfitError, decode, encode


def cause(name: str, explained: float | None, **more: Any) -> Cause:
    return Cause(**{"cause": name, "explained": explained, "best": True, "residual": 0.01, **more})


def layers(*errors: tuple[float | None, float | None], blamed: int | None = None) -> list[Layer]:
    """Blocks with their propagated and isolated errors."""
    return [
        Layer(block=at, name=f"blocks.{at}", propagated=before, isolated=alone, blamed=at == blamed)
        for at, (before, alone) in enumerate(errors)
    ]


OF_CAUSES: dict[str, list[Cause]] = {
    "nothing to explain: the outputs are equal": [],
    "99.9% of the error is the tanh GELU": [cause("gelu_tanh", 0.999)],
    "95.0% of the error is HF32 in the convolutions and the tanh GELU": [cause("conv_hf32+gelu_tanh", 0.95)],
    "float16 rounding alone makes outputs NaN or infinite, on the CPU too": [cause("float16", None, residual=None)],
    "the error is that of bfloat16 rounding, which does not repeat to the digit: 1.04 times as large as emulated, with "
    "a correlation of 0.52": [cause("bfloat16", 0.1, correlation=0.52, size=1.04, repeatable=0.0)],
    "unexplained: none of the known causes explains more than 14%": [
        cause("conv_hf32", 0.143, best=False),
        cause("unexplained", 0.0),
    ],
    "unexplained: none of the known causes explains more than 0%": [
        cause("bfloat16", -1822.3, best=False),
        cause("unexplained", 0.0),
    ],
    "unexplained, but of the size of float32 rounding: 0.0001%": [cause("unexplained", 0.0, residual=1e-6)],
    "unexplained: the outputs are NaN or infinite, under none of the known causes": [
        cause("unexplained", None, residual=None)
    ],
}
OF_BLOCKS: dict[str, list[Layer]] = {
    "no block of the main chain was examined": [],
    "the error arises in block 1 (blocks.1): alone it errs by 3.2100%, others by 0.001%": layers(
        (1e-5, 1e-5), (0.03, 0.0321), (0.03, 1e-5), blamed=1
    ),
    "the error arises in block 0 (blocks.0): alone it errs by NaN or infinity, others by 0%": layers(
        (None, None), (None, 0.0), (None, 0.0), blamed=0
    ),
    "the error enters before block 0 (blocks.0): its output is off by 1.0000%, alone it is right": layers(
        (0.01, 1e-7), (0.02, 1e-7)
    ),
    "all blocks are right within rounding (0.0001%): a larger error arises after them": layers(
        (1e-6, 1e-7), (5e-7, 1e-7)
    ),
    "no block stands out: alone they err by 0.0200% in the median and 0.0900% at most, in block 1 (blocks.1)": layers(
        (2e-4, 2e-4), (3e-4, 9e-4), (3e-4, 2e-4)
    ),
}


def in_both(words: Words, english: str) -> None:
    """The English is as wanted, and the Chinese has the same figures and names."""
    assert words.en == english
    assert re.search(r"[\u4e00-\u9fff]", words.zh)
    for pattern in (r"\d[\d.e+-]*%?", r"blocks\.\d"):
        assert sorted(re.findall(pattern, words.zh)) == sorted(re.findall(pattern, words.en))


@pytest.mark.parametrize("english", OF_CAUSES)
def test_causes_in_words(english: str) -> None:
    in_both(conclude_causes(OF_CAUSES[english]), english)


@pytest.mark.parametrize("english", OF_BLOCKS)
def test_blocks_in_words(english: str) -> None:
    in_both(conclude_blocks(OF_BLOCKS[english], "float32"), english)


def test_what_is_rounding_depends_on_the_dtype() -> None:
    assert [rounding_of(dtype) for dtype in ("float32", "float16", "bfloat16")] == pytest.approx(
        [1e-5, 1.96e-3, 1.56e-2], rel=1e-2
    )
    coarse = layers((1e-3, 1e-3), (1e-3, 1e-3))
    assert conclude_blocks(coarse, "float32").en.startswith("no block stands out")
    assert conclude_blocks(coarse, "float16").en.startswith("all blocks are right within rounding")


@pytest.mark.parametrize("lacking", ["size", "correlation"])
def test_a_cause_that_lacks_a_figure_is_no_diagnosis(lacking: str) -> None:
    figures = {"repeatable": 0.0, "size": 1.0, "correlation": 0.5, lacking: None}
    with pytest.raises(UnjudgeableError, match="no size or correlation"):
        conclude_causes([cause("float16", 0.1, **figures)])


CAUSE = encode(cause("gelu_tanh", 0.9))
LAYER = encode(layers((1.0, 1.0))[0])


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (Cause, {**CAUSE, "explained": "all of it"}, "explained"),
        (Cause, {"best": True}, "cause"),
        (Layer, {**LAYER, "propagated": "much"}, "propagated"),
        (Model, {**encode(example(Model)), "dtype": "float8"}, "dtype"),
    ],
)
def test_what_is_no_figure_never_reaches_a_diagnosis(kind: type[Event], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(MisfitError, match=named):
        decode(kind, fields)
