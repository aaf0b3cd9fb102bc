"""Where the time goes: which modules are of which kind, that none counts twice, and what a run says of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import PERF_QUICK, TINY_VIT, save_transformers
from helpers import small_models
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import Records, find, kind_event, read_records
from helpers.npu_runs import CHECK, PERF
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn
from transformers import AutoModel, CLIPVisionConfig, ConvNextConfig, Dinov2Config, ViTConfig
from transformers.models.vit import modeling_vit

import accuracy_run_perf
import check_accuracy_run_perf
from common.device import devices
from common.encoder.timm_models import TimmModule
from common.log import formulas
from common.performance import breakdown, limit
from common.performance.kinds import Unit, find_units
from common.performance.timing import Budget

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 8}
MLPS_OF_A_VIT_BLOCK = 2 if hasattr(modeling_vit, "ViTOutput") else 1  # ViTIntermediate and it, in transformers 4
# The kinds of small models, and how many modules of each a forward runs; by hand from their printed trees.
TREES: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "timm ViT": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2),
        {"patch_embed": 1, "norm": 5, "attention": 2, "mlp": 2, "activation": 2, "head": 1},
    ),
    "timm ViT with norms in its attention": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, qk_norm=True),
        {"patch_embed": 1, "norm": 9, "attention": 2, "mlp": 2, "activation": 2, "head": 1},
    ),
    "timm ViT with an MLP for the biases of its attention": (
        lambda: timm.create_model("vit_relpos_small_patch16_224", img_size=32, depth=2),
        {"patch_embed": 1, "norm": 5, "attention": 2, "mlp": 2, "activation": 4, "head": 1},
    ),
    "timm Swin": (  # of two stages: the first's two blocks, the second's two behind a reduction
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56, depths=(2, 2), num_heads=(3, 6)),
        {"patch_embed": 1, "norm": 11, "attention": 4, "mlp": 4, "activation": 4, "projection": 1, "head": 1},
    ),
    "timm ConvNeXt": (
        lambda: timm.create_model("convnext_tiny", depths=(1, 1, 2, 1)),
        {"stem": 1, "norm": 10, **{f"stage {at}": 1 for at in range(4)}, "mlp": 5, "activation": 5, "head": 1},
    ),
    "timm ResNet": (
        lambda: timm.create_model("resnet18"),
        {"stem": 1, "norm": 20, "activation": 17, **{f"stage {at}": 1 for at in range(4)}, "head": 2},
    ),
    "timm MLP-Mixer": (  # a short chain of blocks, which are no stages
        lambda: MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=32),
        {"stem": 1, "norm": 5, "mlp": 4, "activation": 4, "head": 1},
    ),
    "transformers ViT": (
        lambda: AutoModel.from_config(ViTConfig(**SMALL, **IMAGE), add_pooling_layer=False),
        {"patch_embed": 1, "norm": 5, "attention": 2, "mlp": 2 * MLPS_OF_A_VIT_BLOCK, "activation": 2},
    ),
    "transformers CLIP": (
        lambda: AutoModel.from_config(CLIPVisionConfig(**SMALL, **IMAGE)),
        {"patch_embed": 1, "norm": 6, "attention": 2, "mlp": 2, "activation": 2},
    ),
    "transformers DINOv2": (
        lambda: AutoModel.from_config(Dinov2Config(**SMALL, **IMAGE)),
        {"patch_embed": 1, "norm": 5, "attention": 2, "mlp": 2, "activation": 2},
    ),
    "transformers ConvNeXt": (
        lambda: AutoModel.from_config(ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32])),
        {"patch_embed": 1, "norm": 10, **{f"stage {at}": 1 for at in range(4)}, "activation": 5},
    ),
}


@cache
def pixels(name: str) -> Tensor:
    side = {"timm ConvNeXt": 64, "timm ResNet": 64, "transformers ConvNeXt": 64, "timm Swin": 56}.get(name, 32)
    return torch.randn(1, 3, side, side)


class Outer(nn.Module):
    """A model inside another, as the encoders hold it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Any:
        return self.model(pixel_values)


@cache
def encoder(name: str) -> nn.Module:
    built = TREES[name][0]().eval()
    return TimmModule(built) if name.startswith("timm") else Outer(built)


each_model = pytest.mark.parametrize("name", TREES)


@each_model
def test_modules_are_found_by_what_they_are(name: str) -> None:
    assert Counter(unit.kind for unit in find_units(encoder(name), pixels(name))) == TREES[name][1]


@each_model
def test_no_layer_with_operations_is_outside_the_kinds(name: str) -> None:
    """A unit that lies in another says so; all operations but those of functions between modules are some unit's."""
    module = encoder(name)
    units = find_units(module, pixels(name))
    names = [unit.name for unit in units]
    for unit in units:
        inside = [other for other in names if unit.name.startswith(f"{other}.")]
        assert unit.around == max(inside, key=len, default=None)
    work = limit.count_operations(module, pixels(name).shape[1:])
    of_kinds = breakdown.gflop_by_kind(units, work)
    assert min(of_kinds.values()) >= 0
    assert sum(of_kinds.values()) == pytest.approx(work.gflop)


def test_efficientnet_is_told_by_its_stages() -> None:
    demo = small_models.load(small_models.DEMO)
    found = Counter(unit.kind for unit in find_units(demo.module, demo.pixel_values))
    stages = {f"stage {at}": 1 for at in range(7)}
    assert found == {"stem": 1, "norm": 49, "activation": 33, "head": 3, **stages}


# ------------------------------------------------------------------------------------------------------ the timing
class Slow(nn.Module):
    """A module that takes so many ms."""

    def __init__(self, ms: float) -> None:
        super().__init__()
        self.ms = ms

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.ms / 1000)
        return x.relu()


class SlowGELU(Slow):
    pass


class SlowNorm(Slow):
    pass


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 8)
        self.act = SlowGELU(20.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        time.sleep(0.005)
        return x


class Sleeper(nn.Module):
    """Two alike blocks of an MLP and a norm, and 10 ms in between."""

    def __init__(self) -> None:
        super().__init__()
        self.mlps = nn.ModuleList([Mlp(), Mlp()])
        self.norms = nn.ModuleList([SlowNorm(5.0), SlowNorm(5.0)])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        x = pixel_values.flatten(2)
        for mlp, norm in zip(self.mlps, self.norms, strict=True):
            x = norm(mlp(x))
        time.sleep(0.01)
        return x, x


def test_each_kind_has_its_own_time_and_no_other_kinds() -> None:
    """Of 70 ms: the two GELUs have 40, the MLPs without them 10, the norms 10, and 10 are left."""
    module, values = Sleeper().eval(), torch.randn(1, 3, 2, 4)
    before = devices.forward(module, values)
    found = {kind.name: kind for kind in breakdown.measure(module, values, Budget(1, 5, 0.1), None, [])}
    assert {name: kind.count for name, kind in found.items()} == {"forward": 1, "mlp": 2, "activation": 2, "norm": 2}
    assert all(len(kind.parts) == 1 for kind in found.values())  # those that are alike were timed once
    assert found["activation"].ms >= 40
    assert 10 <= found["mlp"].ms < found["activation"].ms
    assert 10 <= found["norm"].ms < found["activation"].ms
    assert found["forward"].ms >= 70
    assert found["forward"].remainder == pytest.approx(
        1 - sum(found[name].share for name in found if name != "forward")
    )
    assert torch.equal(devices.forward(module, values)[0], before[0])  # the stand-ins are gone


def test_modules_with_inputs_of_other_shapes_are_timed_each() -> None:
    name = "timm ConvNeXt"
    parts = breakdown.capture(encoder(name), find_units(encoder(name), pixels(name)), pixels(name))
    assert [part.count for part in parts if part.kind == "mlp"] == [1, 1, 2, 1]
    assert all(part.stand_ins for part in parts if part.kind == "mlp")


def test_an_input_is_what_the_module_got_though_it_is_changed_later() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act = nn.LayerNorm(4), nn.ReLU(inplace=True)

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.act(self.norm(pixel_values)).mul_(0)

    module, values = InPlace().eval(), torch.randn(1, 3, 4, 4)
    expected = module.norm(values)
    units = [Unit(name, kind, module.get_submodule(name)) for name, kind in (("norm", "norm"), ("act", "activation"))]
    norm, activation = breakdown.capture(module, units, values)
    assert torch.equal(norm.arguments[0][0], values)
    assert torch.allclose(activation.arguments[0][0], expected)


# ------------------------------------------------------------------------------------------------------ whole runs
@pytest.fixture
def run(tiny_vit: Path, tmp_path: Path) -> Callable[..., Records]:
    """A perf run of a tiny ViT in this process, on the CPU; its records."""

    def perf(*arguments: str) -> Records:
        common = ["--model", str(tiny_vit), "--device", "cpu", "--log-dir", str(tmp_path), *PERF_QUICK]
        assert accuracy_run_perf.main([*common, *arguments]) == 0
        return read_records(tmp_path / "benchmark.log")

    return perf


def test_a_run_that_explains_has_the_kinds_at_one_image_and_at_the_best_batch_size(
    run: Callable[..., Records], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = run("--explain")
    rows = [record for record in records if record["event"] == "perf"]
    best = max(rows, key=lambda row: row["throughput_ips"])["batch_size"]
    kinds = [record for record in records if record["event"] == "kind"]
    assert sorted({kind["batch_size"] for kind in kinds}) == sorted({1, best})
    gflop = find(records, "model")["gflop_per_image"]
    for size in {1, best}:
        whole, *parts = (kind for kind in kinds if kind["batch_size"] == size)
        assert (whole["name"], whole["share"], whole["gflop"]) == ("forward", 1.0, pytest.approx(gflop * size))
        assert sum(kind["share"] for kind in parts) + whole["remainder"] == pytest.approx(1)
        assert [kind["name"] for kind in parts if kind["gflop"]] == ["patch_embed", "attention", "mlp"]
        assert sum(kind["gflop"] or 0 for kind in parts) == pytest.approx(gflop * size)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("time: ") for line in lines) == len({1, best})
    arguments = [str(tmp_path / "benchmark.log"), "--only", "perf", "--verbose"]
    check_accuracy_run_perf.main(arguments)
    checked = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("batch 1 kinds ")]
    assert checked == ["PASS"]


def test_a_run_that_does_not_explain_times_no_kind(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakdown, "measure", lambda *_: pytest.fail("nobody asked"))
    assert not [record for record in run() if record["event"] == "kind"]


def test_kinds_that_do_not_fit_the_memory_are_left_out(
    run: Callable[..., Records], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: Any) -> None:
        raise RuntimeError("NPU out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(breakdown, "capture", exhausted)
    assert not [record for record in run("--explain") if record["event"] == "kind"]
    assert "warning: the kinds at batch size 1 need more memory" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ a slow kind of operator
KERNEL_US = 500
UNDECIDED = "time: undecided"
WIDE_VIT = {**TINY_VIT, "hidden_size": 128, "intermediate_size": 512}  # whose patch embedding is a 20th of its work


@pytest.fixture(scope="module")
def wide_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("checkpoints") / "wide_vit", WIDE_VIT)


@needs_simulated_npu
@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (None, None),
        ("npu_gelu", "activation (GELUActivation)"),
        ("native_layer_norm", "norm (LayerNorm)"),
        ("scaled_dot_product_attention", "attention (ViTAttention)"),
        ("convolution", "patch_embed (ViTEmbeddings)"),
    ],
)
def test_an_operator_that_is_ten_times_as_slow_is_named(
    operator: str | None, kind: str | None, forks: Forks, wide_vit: Path, tmp_path: Path
) -> None:
    """A run on a busy machine may be undecided, and says so: then it is made again."""
    slow = f"{KERNEL_US},{operator}={10 * KERNEL_US}" if operator else f"{KERNEL_US}"
    arguments = ("--model", wide_vit, "--batch-sizes", 1, "--no-cpu-baseline", "--max-seconds", 2, "--explain")
    conclusion = UNDECIDED
    for _ in range(5):
        if conclusion.startswith(UNDECIDED):
            done = forks.run(*PERF, *arguments, cwd=tmp_path, SIMULATED_NPU_KERNEL_US=slow)
            assert done.code == 0, done.stderr
            (conclusion,) = (line for line in done.stdout.splitlines() if line.startswith("time: "))
    assert not conclusion.startswith(UNDECIDED)
    assert ("stands out" in conclusion) == (kind is not None), done.stdout
    assert kind is None or f"stands out, {kind}: " in conclusion
    check = forks.run(*CHECK, "logs/benchmark.log", cwd=tmp_path)
    assert [row.split()[-1] for row in check.stdout.splitlines() if row.startswith("batch 1 kinds ")] == ["PASS"]


def test_the_remainder_may_be_negative() -> None:
    whole = kind_event(formulas.FORWARD, 1, 1, 10.0, None)
    found = formulas.with_shares([whole, kind_event("norm", 1, 2, 6.0, None)], [])
    assert found[0].remainder == pytest.approx(-0.2)
