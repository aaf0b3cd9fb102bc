"""The profile of the blocks: the chain is found in every family of models, and the block at fault is the one blamed.

On the simulated NPU the profiles are measured in one child process, which is this file run as a script.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import read_records
from helpers.small_models import DEMO, VIT, Model, load
from torch import Tensor, nn

from common import session
from common.accuracy.diagnosis import blocks, explanation
from common.accuracy.diagnosis.blocks import find_blocks, profile
from common.device import devices
from common.device.devices import Outputs
from common.encoder import weights
from common.log import conclusions
from common.log.events import Layer
from common.log.writer import RunLog

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
FAULTY = (0, 5, 11)


def on_device(model: Model, change: Callable[[nn.Module], None], dtype: torch.dtype = FLOAT32) -> list[Layer]:
    """The profile of a copy of the encoder after a change to it."""
    module = copy.deepcopy(model.module)
    change(module)
    return profile(model.module, module.to(dtype), model.pixel_values)


def unchanged(module: nn.Module) -> None:
    """The device without a fault."""


def conclude(layers: list[Layer], dtype: torch.dtype) -> str:
    last = layers[-1].propagated if layers else None
    return conclusions.conclude_blocks(layers, devices.dtype_name(dtype), last).en


def blamed(layers: list[Layer]) -> list[int]:
    return [layer.block for layer in layers if layer.blamed]


# -------------------------------------------------------------------------------------------------------- the chain
CHAINS = {  # timm's name: how many blocks, the first and the last
    "vit_tiny_patch16_224": (12, "blocks.0", "blocks.11"),
    "eva02_tiny_patch14_224": (12, "blocks.0", "blocks.11"),
    "swin_tiny_patch4_window7_224": (4, "layers.0", "layers.3"),
    "convnext_tiny": (4, "stages.0", "stages.3"),
    "tf_efficientnet_lite0": (16, "blocks.0.0", "blocks.6.0"),
    "resnet50": (16, "layer1.0", "layer4.2"),
    "twins_svt_small": (18, "blocks.0.0", "blocks.3.3"),
    "regnety_002": (7, "stem", "head"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_chain_of_a_timm_model(name: str) -> None:
    found = find_blocks(weights.build_on_meta(lambda: timm.create_model(name)))
    assert (len(found), found[0][0], found[-1][0]) == CHAINS[name]


@pytest.mark.parametrize("model_type", ["vit", "dinov2", "clip_vision_model", "swin", "siglip_vision_model"])
def test_the_chain_of_a_transformers_model(model_type: str) -> None:
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(model_type)
        model = transformers.AutoModel.from_config(config)
    found = find_blocks(model)
    stages = len(config.depths) if model_type == "swin" else config.num_hidden_layers
    assert len(found) == stages
    assert [name.rpartition(".")[2] for name, _ in found] == [str(number) for number in range(stages)]
    assert all(model.get_submodule(name) is block for name, block in found)


def test_a_module_without_parts_has_no_chain() -> None:
    with pytest.raises(ValueError, match="Linear has no parts"):
        find_blocks(nn.Linear(2, 2))


def test_an_explanation_without_a_chain_names_the_cause_alone(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, pixel_values: Tensor) -> Outputs:
            return F.gelu(pixel_values.mean((2, 3)) * self.scale), pixel_values.flatten(2)

    pixel_values = torch.linspace(-2, 2, 48).view(1, 3, 4, 4)
    embedding, hidden_state = Flat()(pixel_values)
    with (
        RunLog(tmp_path / "accuracy.log", "accuracy_run.py", []) as log,
        session.start(log, "cpu", "float32", "fast") as running,
    ):
        explanation.explain(running, Flat(), Flat(), pixel_values, (embedding + 0.01, hidden_state), "a.png", 0.01)
    assert "\nblocks: Flat has no parts" in (tmp_path / "accuracy.log").read_text()
    events = [record["event"] for record in read_records(tmp_path / "accuracy.log")]
    assert "cause" in events
    assert "layer" not in events
    assert events[-1] == "run_end"


# ------------------------------------------------------------------------------------------------------ the profile
@pytest.mark.parametrize("model", [DEMO, VIT])
def test_equal_modules_agree_in_every_block(model: str) -> None:
    encoder = load(model)
    layers = on_device(encoder, unchanged)
    assert [layer.name for layer in layers] == [name for name, _ in find_blocks(encoder.module)]
    assert [layer.block for layer in layers] == list(range(len(layers)))
    assert {(layer.propagated, layer.isolated) for layer in layers} == {(0.0, 0.0)}
    assert blamed(layers) == []
    assert profile(encoder.module, encoder.module, encoder.pixel_values) == layers  # one and the same, too


def test_nothing_is_left_in_the_modules() -> None:
    encoder = load(VIT)
    module = copy.deepcopy(encoder.module)
    profile(encoder.module, module, encoder.pixel_values)
    for part in (*encoder.module.modules(), *module.modules()):
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_the_figures_are_those_of_the_definitions() -> None:
    """Three blocks that double; the device's second triples. 1, 2, 4, 8 there, and 1, 2, 6, 12 here."""

    class Doubling(nn.Module):
        def __init__(self, factor: float = 2.0) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x: Tensor, _mask: Tensor | None = None, *, table: Any = None) -> tuple[Tensor, None]:
            assert _mask is not None and _mask.dtype == torch.bool
            assert table[0].dtype == FLOAT32
            return x * self.factor, None

    class Chain(nn.Module):
        def __init__(self, *factors: float) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Doubling(factor) for factor in factors)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mask, table = torch.ones(2, dtype=torch.bool), (torch.ones(2), 3)
            for layer in self.layers:
                x, _ = layer(x, mask, table=table)
            return x, x

    x = torch.ones(1, 4)
    for device in (Chain(2.0, 3.0, 2.0), Chain(2.0, 3.0, 2.0).to(BFLOAT16)):
        layers = profile(Chain(2.0, 2.0, 2.0), device, x)
        assert [layer.propagated for layer in layers] == [0, 0.5, 0.5]
        assert [layer.isolated for layer in layers] == [0, 0.5, 0]
        assert [layer.name for layer in layers] == ["layers.0", "layers.1", "layers.2"]
        assert blamed(layers) == [1]


def test_blocks_that_write_to_their_input_are_given_the_one_that_came() -> None:
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return x.add_(self.one)

    chain = nn.Sequential(Adding(), Adding(), Adding())
    layers = profile(chain, copy.deepcopy(chain), torch.ones(1, 3))
    assert {(layer.propagated, layer.isolated) for layer in layers} == {(0.0, 0.0)}


def test_attention_masks_and_tuples_of_a_transformers_model_arrive() -> None:
    torch.manual_seed(0)
    config = transformers.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2])
    model = transformers.SwinModel(config, add_pooling_layer=False).eval()

    class Encoder(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
            state = self.model(pixel_values=pixel_values).last_hidden_state
            return state[:, 0], state

    encoder = Encoder(model)
    pixel_values = torch.randn(1, 3, 32, 32)
    assert all(layer.isolated == layer.propagated == 0 for layer in profile(encoder, encoder, pixel_values))
    broken = copy.deepcopy(encoder)
    broken.model.encoder.layers[1].blocks[0].layernorm_before.weight.data *= 1.5
    assert blamed(profile(encoder, broken, pixel_values)) == [1]


# -------------------------------------------------------------------------------------------------------- the blame
def scaled_norms(block: nn.Module) -> None:
    for part in block.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_hook(lambda _, args, output: output * 1.01)


def zeroed_head(block: nn.Module) -> None:
    """The first of three heads gives zeros to the projection that follows the attention."""
    block.attn.proj.register_forward_pre_hook(
        lambda _, args: (torch.cat([torch.zeros_like(args[0][..., :64]), args[0][..., 64:]], dim=-1),)
    )


@pytest.mark.parametrize("faulty", FAULTY)
@pytest.mark.parametrize("fault", [scaled_norms, zeroed_head])
def test_the_faulty_block_is_blamed(fault: Callable[[nn.Module], None], faulty: int) -> None:
    layers = on_device(load(VIT), lambda module: fault(module.model.blocks[faulty]))
    assert blamed(layers) == [faulty]
    where = f"the error arises in block {faulty} (model.blocks.{faulty}): alone it errs by"
    assert conclude(layers, FLOAT32).startswith(where)
    after = [layer.propagated for layer in layers[faulty:]]
    assert all(error is not None and error > 1e-4 for error in after)
    assert all(layer.propagated == 0 for layer in layers[:faulty])


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
@pytest.mark.parametrize("faulty", FAULTY)
def test_it_stands_out_of_the_rounding_of_16_bits(faulty: int, dtype: torch.dtype) -> None:
    layers = on_device(load(VIT), lambda module: zeroed_head(module.model.blocks[faulty]), dtype)
    assert blamed(layers) == [faulty]


def test_of_two_faulty_blocks_the_first_is_blamed() -> None:
    def change(module: nn.Module) -> None:
        scaled_norms(module.model.blocks[3])
        zeroed_head(module.model.blocks[8])

    assert blamed(on_device(load(VIT), change)) == [3]


def test_a_fault_of_demo_is_blamed_on_its_block() -> None:
    def change(module: nn.Module) -> None:
        module.model.blocks[3][1].bn2.weight.data *= 1.05

    layers = on_device(load(DEMO), change)
    assert [layer.name for layer in layers if layer.blamed] == ["model.blocks.3.1"]


@pytest.mark.parametrize("fault", [scaled_norms, unchanged])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
def test_what_acts_in_all_blocks_alike_is_blamed_on_none(fault: Callable[[nn.Module], None], dtype: Any) -> None:
    layers = on_device(load(VIT), fault, dtype)
    assert blamed(layers) == []
    words = "no block stands out" if fault is scaled_norms else "all blocks are right within rounding"
    assert conclude(layers, dtype).startswith(words)


def test_an_error_before_the_first_block_is_said_to_be_there() -> None:
    def change(module: nn.Module) -> None:
        module.model.patch_embed.proj.weight.data *= 1.01

    layers = on_device(load(VIT), change)
    assert blamed(layers) == []
    assert conclude(layers, FLOAT32).startswith("the error enters before block 0 (model.blocks.0)")


def test_a_block_that_makes_nan_is_blamed() -> None:
    def change(module: nn.Module) -> None:
        module.model.blocks[5].norm1.weight.data[0] = math.nan

    layers = on_device(load(VIT), change)
    assert blamed(layers) == [5]
    assert (layers[5].isolated, layers[6].propagated, layers[6].isolated) == (None, None, 0.0)
    assert "alone it errs by NaN or infinity" in conclude(layers, FLOAT32)


def test_the_rule_of_the_blame() -> None:
    def choose(*isolated: float | None, dtype: torch.dtype = FLOAT32) -> list[int]:
        layers = [
            Layer(block=k, name=f"blocks.{k}", propagated=error, isolated=error) for k, error in enumerate(isolated)
        ]
        return blamed(blocks.mark_blamed(layers, dtype))

    assert choose(1e-4, 9e-4, 1e-4) == []
    assert choose(1e-4, 2e-3, 1e-4) == [1]
    assert choose(1e-7, 9e-6, 1e-7) == []  # it stands out, but is only rounding
    assert choose(1e-7, 2e-5, 1e-7) == [1]
    assert choose(1e-4, 1e-3, 1e-4, dtype=FLOAT16) == []
    assert choose(1e-7, 1e-2) == [1]
    assert choose(1e-7, None) == [1]
    assert choose() == []


# ------------------------------------------------------------------------------------------------- the simulated NPU
FAULTS = ("layer_norm:scale=1.01", "attention:zero;head=0")


@pytest.fixture(scope="module")
def on_simulated_npu(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return forks.measure_on_simulated_npu(__file__, "exact", tmp_path_factory.mktemp("npu"))


@needs_simulated_npu
@pytest.mark.parametrize("faulty", FAULTY)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_npus_faulty_block_is_blamed(fault: str, faulty: int, on_simulated_npu: dict[str, Any]) -> None:
    found = on_simulated_npu[f"{fault};module=blocks.{faulty}"]
    assert [layer["block"] for layer in found["layers"] if layer["blamed"]] == [faulty]
    assert [layer["block"] for layer in found["layers"] if layer["isolated"] > 1e-4] == [faulty]


@needs_simulated_npu
def test_the_npu_without_a_fault_and_with_one_everywhere(on_simulated_npu: dict[str, Any]) -> None:
    assert on_simulated_npu[""]["words"].startswith("all blocks are right within rounding")
    for fault in FAULTS:
        found = on_simulated_npu[fault]
        assert not any(layer["blamed"] for layer in found["layers"])
        assert found["words"].startswith("no block stands out")
    assert on_simulated_npu["conv:scale=1.01"]["words"].startswith("the error enters before block 0")


def profile_on_simulated_npu() -> dict[str, Any]:
    """In the child: the profile of the ViT under each fault, by the fault."""
    import torch_npu  # noqa: F401
    from torch_npu import faults

    torch.npu.conv.allow_hf32 = False
    encoder = load(VIT)
    module = copy.deepcopy(encoder.module)
    devices.place(module, torch.device("npu:0"), FLOAT32)
    single = [f"{fault};module=blocks.{block}" for fault in FAULTS for block in FAULTY]
    found = {}
    for text in ("", *FAULTS, "conv:scale=1.01", *single):
        faults.FAULTS = faults.parse(text)
        layers = profile(encoder.module, module, encoder.pixel_values)
        found[text] = {"layers": [asdict(layer) for layer in layers], "words": conclude(layers, FLOAT32)}
    return found


if __name__ == "__main__":
    print(json.dumps(profile_on_simulated_npu()))
