"""The diagnosis in words: each conclusion from the records that lead to it, in both languages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.log.conclusions import conclude_blocks, conclude_causes
from common.log.formulas import rounding_of
from common.verdict.evidence import UnjudgeableError, Words

Fields = dict[str, Any]


def cause(name: str, explained: float | None, **more: Any) -> Fields:
    return {"cause": name, "explained": explained, "best": True, "repeatable": None, "residual": 0.01, **more}


def layers(*errors: tuple[float | None, float | None], blamed: int | None = None) -> list[Fields]:
    """Records of blocks with their propagated and isolated errors."""
    return [
        {"block": at, "name": f"blocks.{at}", "propagated": before, "isolated": alone, "blamed": at == blamed}
        for at, (before, alone) in enumerate(errors)
    ]


OF_CAUSES: dict[str, list[Fields]] = {
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
OF_BLOCKS: dict[str, list[Fields]] = {
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


@pytest.mark.parametrize(
    "records",
    [[cause("float16", 0.1, repeatable=0.0)], [cause("gelu_tanh", "all of it")], [{"best": True}]],
    ids=["no size", "no number", "no cause"],
)
def test_records_that_lack_a_figure_are_no_diagnosis(records: list[Fields]) -> None:
    with pytest.raises(UnjudgeableError):
        conclude_causes(records)
    with pytest.raises(UnjudgeableError):
        conclude_blocks([{**layer, "propagated": "much"} for layer in layers((1.0, 1.0))], "float32")
    with pytest.raises(UnjudgeableError):
        conclude_blocks(layers((1.0, 1.0)), "float8")
