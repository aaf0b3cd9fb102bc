"""The diagnosis in words: each conclusion from the events that lead to it, in both languages."""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any

import pytest
from helpers.events import example
from helpers.words import in_both

from common.log.conclusions import Words, advise, conclude_blocks, conclude_causes
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
    "nothing but rounding: the CPU's float32 gives the same to the last bit": [],
    "99.9% of the squared error is the tanh GELU": [cause("gelu_tanh", 0.999)],
    "95.0% of the squared error is HF32 in the convolutions and the tanh GELU": [cause("conv_hf32+gelu_tanh", 0.95)],
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
    "nothing but rounding: the error is of the size of float32's (0.0001%)": [cause("unexplained", 0.0, residual=1e-6)],
    "99.9% of the squared error is the tanh GELU: without it the device errs by 0.0370%": [
        cause("gelu_tanh", 0.2, confirmed=0.9992, without=3.7e-4)
    ],
    "96.0% of the squared error is HF32 in the convolutions and the tanh GELU: without them the device errs by "
    "0.0001%": [cause("conv_hf32+gelu_tanh", 0.999, confirmed=0.96, without=1e-6)],
    "unexplained: what can be switched off on the device does not take the error away (gelu_tanh)": [
        cause("gelu_tanh", 0.999, confirmed=0.1, without=0.02, best=False),
        cause("unexplained", 0.0, residual=0.02),
    ],
    "unexplained: the outputs are NaN or infinite, under none of the known causes": [
        cause("unexplained", None, residual=None)
    ],
}
OF_BLOCKS: dict[str, list[Layer]] = {  # of an image whose outputs err by 2 %
    "no block of the main chain was examined": [],
    "the error arises in block 1 (blocks.1): alone it errs by 3.2100%, others by 0.001%": layers(
        (1e-5, 1e-5), (0.03, 0.0321), (0.03, 1e-5), blamed=1
    ),
    "the error arises in block 0 (blocks.0): alone it errs by NaN or infinity, others by 0%": layers(
        (None, None), (None, 0.0), (None, 0.0), blamed=0
    ),
    "the error enters before block 0 (blocks.0): its output is off by 1.0000%, alone it errs by 1e-05%": layers(
        (0.01, 1e-7), (0.02, 1e-7)
    ),
    "all blocks are right within rounding (0.0001%): the error of 2.0000% arises after them": layers(
        (1e-6, 1e-7), (5e-7, 1e-7)
    ),
    "no block stands out: alone they err by 0.0200% in the median and 0.0900% at most, in block 1 (blocks.1)": layers(
        (2e-4, 2e-4), (3e-4, 9e-4), (3e-4, 2e-4)
    ),
}


@pytest.mark.parametrize("english", OF_CAUSES)
def test_causes_in_words(english: str) -> None:
    in_both(conclude_causes(OF_CAUSES[english]), english)


@pytest.mark.parametrize("english", OF_BLOCKS)
def test_blocks_in_words(english: str) -> None:
    in_both(conclude_blocks(OF_BLOCKS[english], "float32", 0.02), english)


def test_what_is_rounding_depends_on_the_dtype() -> None:
    assert [rounding_of(dtype) for dtype in ("float32", "float16", "bfloat16")] == pytest.approx(
        [1e-5, 1.96e-3, 1.56e-2], rel=1e-2
    )
    coarse = layers((1e-3, 1e-3), (1e-3, 1e-3))
    assert conclude_blocks(coarse, "float32", 1e-3).en.startswith("no block stands out")
    assert conclude_blocks(coarse, "float16", 1e-3).en == "all blocks are right within rounding (0.1000%)"


def shown_percents(words: Words) -> list[float]:
    return [float(figure) / 100 for figure in re.findall(r"([\d.e+-]+)%", words.en)]


def seeded_layers(random: Random) -> list[Layer]:
    """Blocks whose errors are of any size, in any order of magnitude."""

    def error() -> float:
        return random.choice([0.0, 10 ** random.uniform(-8, 0)])

    pairs = [(error(), error()) for _ in range(random.randint(1, 6))]
    at = random.randrange(len(pairs))
    stands_out = pairs[at][1] > max([1e-5, *(10 * alone for _, alone in pairs)]) / 10 and len(pairs) > 2
    return layers(*pairs, blamed=at if stands_out and pairs[at][1] == max(alone for _, alone in pairs) else None)


@pytest.mark.parametrize("seed", range(300))
def test_what_is_said_of_blocks_never_contradicts_their_figures(seed: int) -> None:
    """Each sentence with the condition under which it is true, held to the records that it is made of."""
    random = Random(seed)
    found, error = seeded_layers(random), 10 ** random.uniform(-8, 0)
    words = conclude_blocks(found, "float32", error)
    worst = max(layer.propagated or 0.0 for layer in found)
    rounding = rounding_of("float32")
    conditions = {
        "the error arises in": any(layer.blamed for layer in found),
        "all blocks are right within rounding": worst <= rounding,
        "arises after them": worst <= rounding < error,
        "the error enters before": (found[0].propagated or 0.0) >= 3 * (found[0].isolated or 0.0) and worst > rounding,
        "no block stands out": worst > rounding and not any(layer.blamed for layer in found),
    }
    said = [sentence for sentence in conditions if sentence in words.en]
    assert said
    for sentence in said:
        assert conditions[sentence], (words.en, found)
    known = [error, *(value or 0.0 for layer in found for value in (layer.propagated, layer.isolated))]
    for figure in shown_percents(words):
        assert any(math.isclose(figure, value, rel_tol=6e-3, abs_tol=6e-7) for value in known), words.en


@pytest.mark.parametrize("seed", range(300))
def test_what_is_said_of_causes_never_contradicts_their_figures(seed: int) -> None:
    random = Random(seed)
    share = random.choice([None, random.uniform(-1e4, 1.0), random.uniform(0.9, 1.0)])
    confirmed = random.choice([None, random.uniform(0.9, 1.0)])
    best = random.choice(["gelu_tanh", "conv_hf32+gelu_tanh", "unexplained"])
    residual = 10 ** random.uniform(-8, 0)
    if best == "unexplained":
        events = [cause("gelu_tanh", share, best=False), cause(best, 0.0, residual=residual)]
    else:
        events = [cause(best, share, residual=residual, confirmed=confirmed, without=confirmed and residual)]
    words = conclude_causes(events)
    if words.en.startswith("nothing but rounding"):
        assert residual <= rounding_of("float32")
    elif "of the squared error is" in words.en:
        assert shown_percents(words)[0] == pytest.approx(max(confirmed or share or 0.0, 0.0), abs=6e-4)
    elif "none of the known causes" in words.en:
        assert best == "unexplained"
        assert shown_percents(words)[0] == pytest.approx(max(share or 0.0, 0.0), abs=6e-3)
    assert "-" not in re.sub(r"e-\d+", "", words.en).replace("float32-", "")


@pytest.mark.parametrize(
    ("best", "numerics", "advice"),
    [
        ("gelu_tanh", "fast", "--numerics strict removes it"),
        ("conv_hf32+gelu_tanh", "fast", "--numerics strict removes it"),
        ("float16", "strict", "--dtype float32 removes it"),
        ("bfloat16+gelu_tanh", "fast", "--numerics strict --dtype float32 removes it"),
        ("gelu_tanh", "strict", None),
        ("attention", "fast", None),
        ("unexplained", "fast", None),
    ],
)
def test_advice_is_given_where_a_flag_helps(best: str, numerics: str, advice: str | None) -> None:
    found = advise([cause(best, 0.99)], numerics)
    assert (found.en if found else None) == advice


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
