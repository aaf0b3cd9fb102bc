"""The physical limit: operations counted by hand, matrix products of the encoder's own shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.device import devices
from common.errors import DeviceError
from common.log import formulas
from common.log.events import Limit
from common.performance import limit
from common.performance.limit import Meter, Work
from common.performance.timing import ROUNDS, Budget


class Attention(nn.Module):
    """A convolution to 4 tokens of 8, one attention without projections, a linear layer; in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.depthwise(self.patch(pixels)).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(mixed), mixed


CONV = 2 * 4 * (3 * 2 * 2) * 8 / 1e9  # 4 positions, 3 x 2 x 2 inputs, 8 outputs
DEPTHWISE = 2 * 4 * 8 / 1e9
ATTENTION = 2 * (2 * 4 * 4 * 8) / 1e9  # queries by keys, weights by values
HEAD = 2 * 4 * 8 * 5 / 1e9


@pytest.fixture
def work() -> Work:
    return limit.count_operations(Attention(), (3, 4, 4))


def test_operations_are_those_counted_by_hand(work: Work) -> None:
    """The fused attention of the CPU counts too, which PyTorch's counter takes for nothing there."""
    found = work.gflop_by_operator
    assert found["conv"] == pytest.approx(CONV + DEPTHWISE)
    assert found["attention"] == pytest.approx(ATTENTION)
    assert found["matmul"] == pytest.approx(HEAD)
    assert found["other"] == 0
    assert work.gflop == pytest.approx(CONV + DEPTHWISE + ATTENTION + HEAD)


def test_shapes_are_those_of_linear_layers_and_whole_convolutions(work: Work) -> None:
    assert {shape: flop / 1e9 for shape, flop in work.shapes.items()} == {
        (4, 12, 8): pytest.approx(CONV),
        (4, 8, 5): pytest.approx(HEAD),
    }


def test_the_module_itself_stays_where_it_is() -> None:
    module = Attention()
    limit.count_operations(module, (3, 4, 4))
    assert all(not parameter.is_meta for parameter in module.parameters())


def test_main_shapes_cover_most_operations() -> None:
    work = Work({"matmul": 1.0}, {(1, 1, 1): 5.0, (2, 2, 2): 50.0, (3, 3, 3): 45.0})
    assert work.main_shapes() == [(2, 2, 2), (3, 3, 3)]
    many = Work({"matmul": 1.0}, {(size, 1, 1): 1.0 for size in range(100)})
    assert len(many.main_shapes()) == limit.MOST_SHAPES


def test_an_encoder_that_looks_at_values_cannot_be_counted() -> None:
    class Looking(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels * float(pixels.sum())

    with pytest.raises(RuntimeError, match="meta"):
        limit.count_operations(Looking(), (3, 4, 4))


def measured(work: Work, batch_size: int, max_seconds: float, visits: int = 1) -> Limit:
    """The limit over all rounds, each with so many visits."""
    meter = Meter(work, batch_size, torch.device("cpu"), torch.float32)
    for round_index in range(ROUNDS):
        for _ in range(visits):
            meter.measure(round_index, visits, Budget(1, 1, max_seconds))
    return meter.limit


def test_products_have_the_batchs_rows_up_to_a_bound(work: Work) -> None:
    assert [product.shape for product in measured(work, 3, 0.1).shapes] == [[12, 12, 8], [12, 8, 5]]
    large = measured(Work({"matmul": 1.0}, {(3000, 8, 8): 1.0}), 2, 0.1)
    assert [product.shape for product in large.shapes] == [[limit.MOST_ROWS, 8, 8]]
    assert large.gemm_tflops == formulas.gemm_tflops(large.shapes) > 0
    assert large.spread == formulas.spread_of([large])


@pytest.mark.parametrize("visits", [1, 2, 3, 4])
def test_every_round_has_its_windows_however_little_time_there_is(visits: int, work: Work) -> None:
    for max_seconds, windows in ((1e-9, limit.FEWEST_WINDOWS), (1e6, limit.WINDOWS)):
        found = [-(-windows // visits) * visits] * ROUNDS
        for product in measured(work, 1, max_seconds, visits).shapes:
            assert product.windows_a_round == found
            assert len(product.windows.samples_ms) == sum(found)


def test_a_product_that_the_memory_does_not_hold_is_halved(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = F.linear

    def hold_six_rows(left: Tensor, right: Tensor) -> Tensor:
        if len(left) > 6:
            raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")
        return multiply(left, right)

    emptied: list[torch.device] = []
    monkeypatch.setattr(limit.F, "linear", hold_six_rows)
    monkeypatch.setattr(devices, "empty_cache", emptied.append)
    assert [product.shape for product in measured(work, 5, 0.1).shapes] == [[5, 12, 8], [5, 8, 5]]  # of 20, by 10
    assert emptied == [torch.device("cpu")] * 4


def test_memory_that_runs_out_in_a_later_round_leaves_the_windows_of_fewer_rows(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only windows of one size are compared: the first two rounds are measured for nothing."""
    multiply, meter = F.linear, Meter(work, 2, torch.device("cpu"), torch.float32)

    def hold_four_rows(left: Tensor, right: Tensor) -> Tensor:
        if len(left) > 4:
            raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")
        return multiply(left, right)

    for round_index in range(ROUNDS):
        if round_index == 2:
            monkeypatch.setattr(limit.F, "linear", hold_four_rows)
        meter.measure(round_index, 1, Budget(1, 1, 1e-9))
    for product in meter.limit.shapes:
        assert product.shape[0] == 4
        assert product.windows_a_round == [0, 0, *[limit.FEWEST_WINDOWS] * (ROUNDS - 2)]
    assert meter.limit.spread is not None
    assert meter.limit.spread < 1


@pytest.mark.parametrize("words", ["out of memory", "operator not supported"])
def test_a_product_that_no_row_or_no_device_can_do_is_an_error(
    words: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def refuse(left: Tensor, right: Tensor) -> Tensor:
        assert len(left) > 0
        rows.append(len(left))
        raise RuntimeError(words)

    monkeypatch.setattr(limit.F, "linear", refuse)
    with pytest.raises((RuntimeError, DeviceError), match=words):
        measured(work, 1, 0.1)
    assert rows == ([4, 2, 1] if words == "out of memory" else [4])
