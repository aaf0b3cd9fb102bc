"""The diagnosis in words: each conclusion from the events that lead to it, in both languages."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from helpers.events import example

from common.log.conclusions import Words, advise, conclude_blocks, conclude_causes, conclude_kinds
from common.log.events import Cause, Event, Kind, Layer, Model, Part, Windows
from common.log.formulas import FORWARD, rounding_of, with_shares
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
    "nothing but rounding: the error is of the size of float32's (0.0001%)": [cause("unexplained", 0.0, residual=1e-6)],
    "99.9% of the error is the tanh GELU: without it the device errs by 0.0370%": [
        cause("gelu_tanh", 0.2, confirmed=0.9992, without=3.7e-4)
    ],
    "96.0% of the error is HF32 in the convolutions and the tanh GELU: without them the device errs by 0.0001%": [
        cause("conv_hf32+gelu_tanh", 0.999, confirmed=0.96, without=1e-6)
    ],
    "unexplained: switched off on the device, none of gelu_tanh takes the error away": [
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


def kinds(
    times_ms: dict[str, Any], gflop: dict[str, float], limit: float | None = 1.0, whole: Any = 100.0
) -> list[Kind]:
    """The kinds of a forward of 100 ms by their times in ms, or by those of their windows, and their operations."""

    def kind(name: str, windows_ms: Any, operations: float | None) -> Kind:
        samples_ms = windows_ms if isinstance(windows_ms, list) else [windows_ms]
        parts = [Part(module=name, count=1, windows=Windows(calls=1, samples_ms=samples_ms))]
        return example(Kind, name=name, parts=[encode(part) for part in parts], gflop=operations, classes=["C"])

    total = sum(gflop.values()) or None
    parts = [kind(name, ms, gflop.get(name)) for name, ms in times_ms.items()]
    return with_shares([kind(FORWARD, 100.0, total), *parts], [] if limit is None else [limit])


OPERATIONS = {"attention": 35.0, "mlp": 60.0, "patch_embed": 5.0}  # of 100 GFLOP: in 100 ms 1 TFLOP/s
OF_TIME: dict[str, list[Kind]] = {
    "limited by matrix products near their limit: 90.0% of the time at 88.9% of it": kinds(
        {"attention": 35.0, "mlp": 50.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, 1.25
    ),
    "limited by matrix products below their limit: 90.0% of the time at 55.6% of it; most is lost in attention (C), "
    "45.0% at 38.9%": kinds({"attention": 45.0, "mlp": 40.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, 2.0),
    "limited by matrix products: 90.0% of the time, without a limit beside them": kinds(
        {"attention": 35.0, "mlp": 50.0, "patch_embed": 5.0, "norm": 5.0}, OPERATIONS, None
    ),
    "limited by one kind that stands out, activation (C): 40.0% of the time for 0.0% of the operations": kinds(
        {"attention": 20.0, "mlp": 30.0, "patch_embed": 5.0, "activation": 40.0}, OPERATIONS
    ),
    "limited by one kind that stands out, attention (C): 75.0% of the time for 35.0% of the operations": kinds(
        {"attention": 75.0, "mlp": 14.0, "patch_embed": 2.0, "norm": 5.0}, OPERATIONS
    ),
    "limited by one kind that stands out, patch_embed (C): 30.0% of the time for 5.0% of the operations": kinds(
        {"attention": 25.0, "mlp": 30.0, "patch_embed": 30.0, "norm": 5.0}, OPERATIONS
    ),
    "limited by element-wise operators, so by memory: norm (C), activation (C) take 48.0% of the time, matrix products "
    "42.0%": kinds({"attention": 20.0, "mlp": 22.0, "norm": 24.0, "activation": 24.0}, OPERATIONS),
    "limited by overhead between the kinds: 60.0% of the time, matrix products 35.0%, element-wise operators "
    "5.0%": kinds({"attention": 15.0, "mlp": 20.0, "norm": 5.0}, OPERATIONS),
    "no kind can be told to limit it: alone they take 130.0% of the time of the whole forward": kinds(
        {"attention": 50.0, "mlp": 70.0, "norm": 10.0}, OPERATIONS
    ),
    "the largest share is that of mlp (C), 50.0% of the time; operations can't be counted": kinds(
        {"attention": 40.0, "mlp": 50.0, "norm": 5.0}, {}
    ),
    "undecided, the machine was busy: the best windows and the median ones say different things": kinds(
        {"attention": [10.0, 35.0, 36.0], "mlp": [10.0, 50.0, 50.0], "norm": 5.0}, OPERATIONS
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


@pytest.mark.parametrize("english", OF_TIME)
def test_where_the_time_goes_in_words(english: str) -> None:
    in_both(conclude_kinds(OF_TIME[english]), english)


@pytest.mark.parametrize("lost", [FORWARD, "mlp"])
def test_kinds_without_the_whole_or_parts_say_nothing(lost: str) -> None:
    found = [kind for kind in kinds({"mlp": 80.0}, OPERATIONS) if kind.name != lost]
    with pytest.raises(UnjudgeableError, match="no whole forward, or no kind"):
        conclude_kinds(found)


@pytest.mark.parametrize("windows_ms", [[], [0.0], [1e308, 1e308]])
def test_kinds_of_no_time_or_of_any_are_no_conclusion(windows_ms: list[float]) -> None:
    whole, part, other = kinds({"mlp": 80.0, "norm": 10.0}, OPERATIONS)
    timed = [replace(each, windows=Windows(calls=1, samples_ms=windows_ms)) for each in (*whole.parts, *whole.parts)]
    with pytest.raises(UnjudgeableError, match="kind records: "):
        conclude_kinds([replace(whole, parts=timed), part, other])


@pytest.mark.parametrize("seed", range(300))
def test_what_is_said_of_the_time_never_contradicts_its_figures(seed: int) -> None:
    """Each sentence with the condition under which it is true, held to the records that it is made of."""
    random = Random(seed)
    shares = {name: random.expovariate(1) for name in ("attention", "mlp", "patch_embed", "norm", "activation")}
    scale = 100 * random.uniform(0.2, 1.5) / sum(shares.values())
    limit = 10 ** random.uniform(-0.5, 1.5)
    found = kinds({name: share * scale for name, share in shares.items()}, OPERATIONS, limit)
    words = conclude_kinds(found).en
    whole, *others = found
    products = sum(kind.share for kind in others if kind.gflop)
    elementwise = sum(kind.share for kind in others if not kind.gflop)
    left = 1 - products - elementwise
    reached = 100.0 / (products * 100.0) / limit  # all operations in the time of the matrix products
    said = next((kind for kind in others if f"stands out, {kind.name} " in words), whole)
    far_above = said is not whole and said.share >= 0.25 and said.share >= 1.5 * (said.gflop or 0.0) / 100
    conditions = {
        "no kind can be told": left <= -0.25,
        "stands out": far_above and left > -0.25,
        "overhead between": left > max(products, elementwise),
        "element-wise operators, so by memory": elementwise >= max(products, left),
        "near their limit": products >= max(elementwise, left) and reached >= 0.7,
        "below their limit": products >= max(elementwise, left) and reached < 0.7,
    }
    (sentence,) = (sentence for sentence in conditions if sentence in words)
    assert conditions[sentence], (words, found)


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
    elif "of the error is" in words.en:
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
