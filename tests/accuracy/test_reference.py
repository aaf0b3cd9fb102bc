"""Saved references: a run with one computes none itself and gives the same figures; what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PERF_QUICK, TINY_TIMM, Runner, save_timm
from helpers.logs import Records, find, read_records
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import accuracy_run
import accuracy_run_perf
import check_accuracy_run_perf as checker
from common.accuracy import saved_reference
from common.encoder import timm_models
from common.errors import UserError
from common.log import events

Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


def run(log_dir: Path, model: Path, *arguments: object) -> Records:
    """The records of an accuracy run of two samples in this process, on the CPU in float16 unless told otherwise."""
    common = ("--model", model, "--device", "cpu", "--dtype", "float16", "--samples", "2", "--log-dir", log_dir)
    assert accuracy_run.main([str(argument) for argument in (*common, *arguments)]) == 0
    return read_records(log_dir / "accuracy.log")


def figures(records: Records) -> list[dict[str, Any]]:
    """What was compared and found, without the run's name and the record's number."""
    kept = [record for record in records if record["event"] in ("sample", "accuracy", "noise_floor")]
    return [{key: value for key, value in record.items() if key not in ("run", "seq")} for record in kept]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> Path:
    """A saved reference of two samples in float32 and float64; beside it the log of the run that saved it."""
    folder = tmp_path_factory.mktemp("saved")
    run(folder, tiny_timm, "--golden", "--save-reference", folder / "both.safetensors")
    return folder / "both.safetensors"


@pytest.fixture(scope="module")
def saved_float32(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    run(folder, tiny_timm, "--save-reference", folder / "float32.safetensors")
    return folder / "float32.safetensors"


@contextmanager
def counted_forwards() -> Iterator[list[tuple[str, str]]]:
    """The device and dtype of every call of an encoder inside the block."""
    calls = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        if isinstance(module, timm_models.TimmModule):
            calls.append((str(inputs[0].device), str(inputs[0].dtype)))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


# -------------------------------------------------------------------------------------------------- saved and used
def test_a_run_with_a_reference_gives_the_figures_of_the_run_that_saved_it(
    saved: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    records = run(tmp_path, tiny_timm, "--golden", "--reference", saved)
    assert figures(records) == figures(read_records(saved.parent / "accuracy.log"))
    assert len(figures(records)) == 2 * 2 * 2 + 2 * 2 + 2


def test_a_run_with_a_reference_computes_nothing_but_the_candidates(
    saved: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    candidate, again = ("cpu", "torch.float16"), [("cpu", "torch.float16")] * 2
    with counted_forwards() as calls:
        run(tmp_path, tiny_timm, "--golden", "--reference", saved)
    assert calls == [candidate] * 2 + again
    with counted_forwards() as calls:
        run(tmp_path, tiny_timm, "--golden")
    of_image = [("cpu", "torch.float32"), ("cpu", "torch.float64"), candidate]
    emulated = [("cpu", "torch.float32")] * 2
    assert calls == of_image * 2 + emulated + again


def test_the_images_need_not_be_there_nor_be_preprocessed(
    saved: Path, tiny_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise AssertionError("an image was looked for")

    monkeypatch.setattr("common.images.decoding.default_photo", absent)
    monkeypatch.setattr("common.images.decoding.Sample.load", absent)
    samples = [r for r in run(tmp_path, tiny_timm, "--reference", saved) if r["event"] == "sample"]
    assert [sample["image"] for sample in samples][::2] == ["grace_hopper.jpg", "grace_hopper.jpg crop 1"]


def test_the_pixel_values_are_the_files(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    def darken(tensors: Tensors, _: Metadata) -> None:
        tensors["pixel_values"] *= 0.5

    records = run(tmp_path, tiny_timm, "--reference", altered(saved, tmp_path / "other", darken))
    assert find(records, "accuracy")["result"] == "FAIL"


def test_the_outputs_are_the_files(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    def scale(tensors: Tensors, _: Metadata) -> None:
        tensors["embedding.float64"] *= 1.02

    file = altered(saved, tmp_path / "other", scale)
    records = run(tmp_path, tiny_timm, "--golden", "--reference", file)
    found = {(r["output"], r["reference"]): r["result"] for r in records if r["event"] == "accuracy"}
    assert [of for of, result in found.items() if result == "FAIL"] == [("embedding", "float64")]


def test_the_log_says_that_the_reference_was_saved(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_timm, "--reference", saved)
    source = find(records, "reference_source")
    assert source["file"] == "both.safetensors"
    assert source["file_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert source["precisions"] == ["float32", "float64"]
    assert source["versions"]["torch"] == find(records, "env")["torch"]
    assert source["code_sha256"] == find(records, "run_start")["code_sha256"]
    assert "Reference: float32, saved in both.safetensors by torch " in (tmp_path / "accuracy.log").read_text()
    assert not [r for r in read_records(saved.parent / "accuracy.log") if r["event"] == "reference_source"]


def test_fewer_samples_than_saved_are_the_first(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    records = run(tmp_path, tiny_timm, "--reference", saved, "--samples", "1")
    assert [r["image"] for r in records if r["event"] == "sample"] == ["grace_hopper.jpg"] * 2


def test_float32_on_the_cpu_saves_itself_and_its_golden(
    saved: Path, tiny_timm: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    """The way to make a reference on a machine without an accelerator."""
    run(tmp_path, tiny_timm, "--dtype", "float32", "--save-reference", tmp_path / "new" / "cpu.safetensors")
    found, expected = load_file(tmp_path / "new" / "cpu.safetensors"), load_file(saved)
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in expected.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.new"))


def test_the_checker_ties_a_saved_reference_to_a_perf_run(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    run(tmp_path, tiny_timm, "--dtype", "float32", "--reference", saved)
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(tmp_path)]
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    assert checker.main([str(tmp_path / "accuracy.log"), str(tmp_path / "benchmark.log")]) == 0


def test_the_same_images_may_be_named(saved: Path, coffee: Path, tiny_timm: Path, tmp_path: Path) -> None:
    run(tmp_path, tiny_timm, "--image", coffee, "--save-reference", tmp_path / "coffee.safetensors")
    shutil.copy(coffee, tmp_path / "renamed.png")
    records = run(
        tmp_path, tiny_timm, "--image", tmp_path / "renamed.png", "--reference", tmp_path / "coffee.safetensors"
    )
    assert find(records, "sample")["image"] == "coffee.png"
    with pytest.raises(UserError, match=r"other images: its grace_hopper.jpg differs from coffee.png as"):
        run(tmp_path, tiny_timm, "--image", coffee, "--reference", saved)
    with pytest.raises(UserError, match=r"other images: its coffee.png crop 1 differs from coffee.png crop 1 as"):
        run(tmp_path, tiny_timm, "--image", coffee, "--seed", "1", "--reference", tmp_path / "coffee.safetensors")


# ------------------------------------------------------------------------------------------------------- refusals
def altered(source: Path, target: Path, edit: Callable[[Tensors, Metadata], object]) -> Path:
    with safe_open(source, framework="pt") as opened:
        metadata = dict(opened.metadata())
    tensors = load_file(source)
    edit(tensors, metadata)
    save_file(tensors, target, metadata)
    return target


def about(**changes: object) -> Callable[[Tensors, Metadata], None]:
    """An edit of what the file says of itself; None removes."""

    def edit(_: Tensors, metadata: Metadata) -> None:
        content = {**json.loads(metadata["about"]), **changes}
        metadata["about"] = json.dumps({key: value for key, value in content.items() if value is not None})

    return edit


def to_float32(tensors: Tensors, _: Metadata) -> None:
    tensors["embedding.float64"] = tensors["embedding.float64"].float()


def float32_under_another_name(tensors: Tensors, metadata: Metadata) -> None:
    """The CPU's float32 as if it were float64, which would compare it with itself."""
    for output in events.OUTPUTS:
        tensors[f"{output}.float64"] = tensors[f"{output}.float32"].clone()


DAMAGED = "is a damaged reference"
EDITS: list[tuple[Callable[[Tensors, Metadata], object], str]] = [
    (lambda tensors, metadata: metadata.pop("kind"), "is no reference that --save-reference has written"),
    (lambda tensors, metadata: metadata.update(kind="features"), "is no reference that --save-reference has written"),
    (lambda tensors, metadata: metadata.update(format="2"), "has the format 2, this program reads 1"),
    (lambda tensors, metadata: metadata.pop("about"), DAMAGED),
    (lambda tensors, metadata: metadata.update(about="{"), DAMAGED),
    (lambda tensors, metadata: metadata.update(about="[]"), DAMAGED),
    (about(images=None), DAMAGED),
    (about(images=["one"]), DAMAGED),
    (about(images=[1, 2]), DAMAGED),
    (about(image_sha256=["0" * 64]), DAMAGED),
    (about(images=["one"], image_sha256=["0" * 64]), DAMAGED),
    (about(precisions=["float64"]), DAMAGED),
    (about(precisions="float32"), DAMAGED),
    (about(versions=None), DAMAGED),
    (about(weights_sha256=None), DAMAGED),
    (about(expected_relative_l2=[]), DAMAGED),
    (about(expected_relative_l2={"float16": {}}), DAMAGED),
    (about(expected_relative_l2={"float16": {}, "bfloat16": 0.1}), DAMAGED),
    (about(weights_sha256="0" * 64), "is a reference of other weights"),
    (lambda tensors, metadata: tensors.pop("pixel_values"), DAMAGED),
    (lambda tensors, metadata: tensors.pop("hidden_state.float32"), DAMAGED),
    (lambda tensors, metadata: tensors.update(more=torch.zeros(2)), DAMAGED),
    (lambda tensors, metadata: tensors.update(pixel_values=torch.zeros(())), DAMAGED),
    (lambda tensors, metadata: tensors.update(pixel_values=torch.zeros(3, 3, 160, 160)), DAMAGED),
    (lambda tensors, metadata: tensors.update(pixel_values=torch.zeros(2, 3, 32, 32)), "holds images of"),
    (to_float32, DAMAGED),
    (float32_under_another_name, DAMAGED),
]


@pytest.mark.parametrize(("edit", "named"), EDITS)
def test_a_file_that_does_not_fit_is_refused(
    edit: Callable[[Tensors, Metadata], object], named: str, saved: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    file = altered(saved, tmp_path / "edited.safetensors", edit)
    with pytest.raises(UserError, match=named) as refused:
        run(tmp_path, tiny_timm, "--reference", file)
    assert "\n" not in str(refused.value)
    assert read_records(tmp_path / "accuracy.log")[-1]["status"] == "error"


@pytest.mark.parametrize("content", [None, b"", b"no safetensors", bytes(range(256)) * 20])
def test_what_is_no_safetensors_file_is_refused(
    content: bytes | None, saved: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    file = tmp_path / "reference.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"is no whole safetensors file|is empty|is a text \(no safetensors\)"):
        run(tmp_path, tiny_timm, "--reference", file)
    with pytest.raises(UserError, match="is no whole safetensors file"):
        run(tmp_path, tiny_timm, "--reference", tmp_path)


def test_every_truncation_is_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for end in range(0, len(content) - 1, len(content) // 40):
        (tmp_path / "cut").write_bytes(content[:end])
        with pytest.raises(UserError, match="is no whole safetensors file" if end else "is empty"):
            saved_reference._read(tmp_path / "cut")


def test_a_models_weights_are_no_reference(tiny_timm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no reference that"):
        run(tmp_path, tiny_timm, "--reference", tiny_timm / "model.safetensors")


def test_other_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    other = save_timm(tmp_path / "other", TINY_TIMM, seed=1)
    with pytest.raises(UserError, match="is a reference of other weights"):
        run(tmp_path, other, "--reference", saved)


def test_more_samples_than_saved_are_refused(saved: Path, tiny_timm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 2 samples, not 3; without --samples"):
        run(tmp_path, tiny_timm, "--reference", saved, "--samples", "3")


@pytest.mark.parametrize("arguments", [["--dtype", "float32"], ["--golden"]])
def test_float32_does_not_stand_for_float64(
    arguments: list[str], saved_float32: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    """Float32 on the CPU can't be compared with itself by way of a file either."""
    run(tmp_path, tiny_timm, "--reference", saved_float32)
    with pytest.raises(UserError, match="holds no float64 reference, only float32"):
        run(tmp_path, tiny_timm, "--reference", saved_float32, *arguments)


def test_both_flags_at_once_are_a_usage_error(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        accuracy_run.main(["--reference", str(saved), "--save-reference", "x", "--log-dir", str(tmp_path)])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_exit_2(saved: Path, run_script: Runner) -> None:
    failed = run_script("accuracy_run.py", "--model", "demo", "--device", "cpu", "--reference", saved, "--samples", 2)
    assert (failed.code, failed.stderr.count("\n")) == (2, 1)
    assert failed.stderr.startswith("error: ")
    assert "is a reference of other weights" in failed.stderr


# --------------------------------------------------------------------------------------------------------- writing
def test_a_reference_that_cannot_be_written_is_an_error(tiny_timm: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "reference.safetensors", tmp_path):
        with pytest.raises(UserError, match="can't be written"):
            run(tmp_path / "logs", tiny_timm, "--save-reference", target)


def test_an_earlier_reference_stays_until_the_new_one_is_whole(
    saved: Path, tiny_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(tensors: Tensors, path: Path, metadata: Metadata) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    file = Path(shutil.copy(saved, tmp_path))
    monkeypatch.setattr("common.accuracy.saved_reference.save_file", cut)
    with pytest.raises(UserError, match="No space left on device"):
        run(tmp_path, tiny_timm, "--save-reference", file)
    assert file.read_bytes() == saved.read_bytes()
