"""inference.py: the lines it prints, the records and features it writes, and a table of ways to be wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_TIMM, Finished, Runner, save_timm
from helpers import logs
from helpers.forks import Forks
from helpers.logs import RunOnDisk
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import inference
from common.cli import launch
from common.encoder import weights
from common.features import topk
from common.images import batching, decoding

CPU = ("--device", "cpu")
DEMO = ("--model", "demo", *CPU)
SIMULATED_NPU = Path(__file__).parents[1] / "simulated_npu"
NO_CANN = 'raise RuntimeError("Failed to load the backend extension: torch_npu. You can disable it")'
NO_TORCH = """raise ModuleNotFoundError("No module named 'torch'", name="torch")"""

Features = tuple[dict[str, Any], np.ndarray]


@pytest.fixture
def infer(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Run inference.py in this process, as its last line does, in a folder of the test and on one thread."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            launch.run(inference.main)
        printed = capfd.readouterr()
        return Finished(int(str(left.value.code)), printed.out, printed.err)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with mock.patch.dict(os.environ):  # a run sets switches for torch, which are no other test's
        yield run
    torch.set_num_threads(threads)


def read_run(log: Path = Path("logs/inference.log")) -> RunOnDisk:
    return logs.read_run(log)


def noise(path: Path, seed: int) -> Path:
    """An image file that differs from those of other seeds in structure, not in pixels alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((100, 80)).save(path)
    return path


# ----------------------------------------------------------------------------------------------- what is printed
def test_the_lines_of_the_reference_are_printed_verbatim(run_script: Runner, tmp_path: Path) -> None:
    """As a plain process, without --image and with standard output piped: the log's every line is there too."""
    finished = run_script("inference.py", *DEMO, env={})
    assert (finished.code, finished.stderr) == (0, "")
    printed = finished.stdout.splitlines()
    lines = [line for line in printed if not line.startswith("@record ")]
    wanted = [
        "Model: demo",
        "Input shape: [1, 3, 224, 224]",
        "Output shape: [1, 1000]",
        "Output dtype: torch.float32",
        "Top-5 outputs (index, value):",
    ]
    assert [line for line in lines if line in wanted] == wanted
    top = lines[lines.index(wanted[-1]) + 1 :]
    assert len(top) == 6
    assert top.pop().startswith("done: 1 image; log: logs/inference.log; next: python accuracy_run.py --model demo")
    for rank, line in enumerate(top, start=1):
        assert re.fullmatch(rf"  {rank}\. index=\d+, value=-?\d+\.\d{{6}}, label=.+", line), line
    assert printed == (tmp_path / "logs" / "inference.log").read_text().splitlines()
    assert read_run(tmp_path / "logs" / "inference.log").problems == []


def test_an_espresso_is_recognised(infer: Runner, coffee: Path) -> None:
    finished = infer(*DEMO, "--image", coffee)
    (first,) = [line for line in finished.stdout.splitlines() if line.startswith("  1. ")]
    assert first.startswith("  1. index=967, ")
    assert first.endswith(", label=espresso")


def test_the_record_holds_what_is_printed(infer: Runner, coffee: Path) -> None:
    finished = infer(*DEMO, "--image", coffee)
    (record,) = read_run().events("inference")
    rows = re.findall(r"index=(\d+), value=(\S+), label=(.+)", finished.stdout)
    assert rows == [(str(top["index"]), f"{top['value']:.6f}", top["label"]) for top in record["topk"]]
    assert record["image"] == "coffee.png"
    assert record["image_sha256"] == decoding.Sample("", coffee).sha256()
    assert record["output_shape"] == [1, 1000]


def test_without_an_image_the_default_photo_is_used(infer: Runner) -> None:
    assert infer(*DEMO).code == 0
    (record,) = read_run().events("inference")
    assert record["image_sha256"] == decoding.Sample("", decoding.default_photo()).sha256()


def test_topk_counts_the_rows_and_sorts_them(infer: Runner) -> None:
    finished = infer(*DEMO, "--topk", 3)
    assert "Top-3 outputs (index, value):" in finished.stdout.splitlines()
    values = [float(value) for value in re.findall(r"^  \d\. index=\d+, value=([^,]+)", finished.stdout, re.MULTILINE)]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)


def test_topk_beyond_the_outputs_gives_all_of_them(infer: Runner, tiny_timm: Path) -> None:
    assert infer("--model", tiny_timm, *CPU, "--topk", 50).code == 0
    (record,) = read_run().events("inference")
    assert sorted(top["index"] for top in record["topk"]) == list(range(10))


def test_an_encoder_without_classes_prints_no_labels(infer: Runner, tiny_vit: Path) -> None:
    finished = infer("--model", tiny_vit, *CPU)
    assert "Output shape: [1, 32]" in finished.stdout.splitlines()
    assert "label=" not in finished.stdout


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_is_the_one_asked_for(infer: Runner, tiny_timm: Path, dtype: str) -> None:
    finished = infer("--model", tiny_timm, *CPU, "--dtype", dtype)
    assert f"Output dtype: torch.{dtype}" in finished.stdout.splitlines()
    assert read_run().events("model")[0]["dtype"] == dtype


def test_outputs_that_are_not_finite_are_told(infer: Runner, tiny_timm: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_timm, tmp_path / "broken")
    state = load_file(tiny_timm / "model.safetensors")
    state["head.bias"] = torch.tensor([float("nan"), float("inf"), *[0.0] * 8])
    save_file(state, tmp_path / "broken" / "model.safetensors")
    finished = infer("--model", tmp_path / "broken", *CPU, "--topk", 1)  # the count is of all outputs
    assert finished.code == 0
    assert "warning: 2 of 10 outputs of grace_hopper.jpg are NaN or infinite" in finished.stdout.splitlines()
    assert read_run().events("inference")[0]["nonfinite"] == 2


# -------------------------------------------------------------------------------------------------- several images
def several_images(folder: Path) -> list[Path]:
    """What --image is given: files in no order of their names, one twice, and a folder. Seven images in all."""
    noise(folder / "folder" / "deep" / "e.png", seed=5)
    noise(folder / "folder" / "d.png", seed=4)
    paths = [noise(folder / f"{name}.png", seed) for seed, name in enumerate("cab")]
    return [*paths, paths[0], folder / "folder", noise(folder / "0.png", seed=6)]


NAMES = ["c.png", "a.png", "b.png", "c.png (2)", "folder/d.png", "folder/deep/e.png", "0.png"]


def read_safetensors(file: Path) -> Features:
    with safe_open(file, framework="np") as opened:
        about: dict[str, Any] = dict(opened.metadata())
        about["images"] = json.loads(about["images"])
        return about, opened.get_tensor("embedding")


def read_npy(file: Path) -> Features:
    return json.loads(file.with_suffix(".json").read_text()), np.load(file)


READERS: list[tuple[str, Callable[[Path], Features]]] = [(".safetensors", read_safetensors), (".npy", read_npy)]


def test_every_image_has_its_record_in_order(infer: Runner, tiny_timm: Path, tmp_path: Path) -> None:
    paths = several_images(tmp_path)
    finished = infer("--model", tiny_timm, *CPU, "--batch-size", 2, "--image", *paths)
    headings = re.findall(r"^Top-5 outputs \(index, value\) of (.+):$", finished.stdout, re.MULTILINE)
    assert headings == [record["image"] for record in read_run().events("inference")] == NAMES


def test_the_last_batch_may_be_smaller(infer: Runner, tiny_timm: Path, tmp_path: Path) -> None:
    paths = several_images(tmp_path)
    finished = infer("--model", tiny_timm, *CPU, "--batch-size", 5, "--image", *paths)
    assert "Input shape: [5, 3, 160, 160]" in finished.stdout.splitlines()
    assert len(read_run().events("inference")) == len(NAMES)


@pytest.mark.parametrize(("suffix", "read"), READERS)
def test_features_equal_those_of_single_images(
    infer: Runner, tiny_timm: Path, tmp_path: Path, suffix: str, read: Callable[[Path], Features]
) -> None:
    paths = several_images(tmp_path)
    model = ("--model", tiny_timm, *CPU)
    infer(*model, "--batch-size", 2, "--image", *paths, "--output", f"all{suffix}")
    about, embedding = read(Path(f"all{suffix}"))
    assert about["images"] == NAMES
    assert (embedding.shape, embedding.dtype) == ((7, 10), np.float32)
    largest = np.abs(embedding).max()
    for row, name in zip(embedding, NAMES, strict=True):
        file = tmp_path / name.removesuffix(" (2)")
        infer(*model, "--image", file, "--output", f"one{suffix}")
        np.testing.assert_allclose(row, read(Path(f"one{suffix}"))[1][0], rtol=0, atol=1e-5 * largest)
    distinct = embedding[[name != "c.png (2)" for name in NAMES]]
    distances = np.abs(distinct[:, None] - distinct).max(axis=2)[np.triu_indices(len(distinct), k=1)]
    assert distances.min() > 1e-3 * largest  # or else a wrong order would not show


@pytest.mark.parametrize(("suffix", "read"), READERS)
def test_features_say_what_they_are_of(
    infer: Runner, tiny_timm: Path, suffix: str, read: Callable[[Path], Features]
) -> None:
    infer("--model", tiny_timm, *CPU, "--output", f"new/folder/features{suffix}")
    about, _ = read(Path(f"new/folder/features{suffix}"))
    assert about["model"] == tiny_timm.name  # no path: where somebody's home is does not belong in a file
    assert about["weights_source"] == tiny_timm.name
    assert about["weights_sha256"] == weights.files_sha256([tiny_timm / "model.safetensors"])
    assert "mean" in about["preprocess"]


def test_features_of_a_dotted_name_keep_it(infer: Runner, tiny_timm: Path, tmp_path: Path) -> None:
    infer("--model", tiny_timm, *CPU, "--output", "vit.v1.npy")
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "vit.v1.npy", "vit.v1.json"}


# ------------------------------------------------------------------------------------------------------------ the logs
def test_env_check_is_written_even_if_the_run_fails(infer: Runner) -> None:
    assert infer(*DEMO, "--image", "nosuch.jpg").code == 2
    table = dict(re.findall(r"^(\w+) {2,}(.+)$", Path("logs/env_check.log").read_text(), re.MULTILINE))
    assert table["torch"] == torch.__version__.partition("+")[0]
    assert table["device"] == "cpu"


def test_a_failing_run_closes_its_log_with_the_reason(infer: Runner) -> None:
    infer(*DEMO, "--image", "nosuch.jpg")
    end = read_run().records[-1]
    assert (end["event"], end["status"]) == ("run_end", "error")
    assert "no such image: nosuch.jpg" in end["error"]


def test_an_image_that_fails_late_leaves_the_records_before_it(infer: Runner, tiny_timm: Path, tmp_path: Path) -> None:
    noise(tmp_path / "a.png", seed=0)
    (tmp_path / "b.png").write_text("no image")
    finished = infer("--model", tiny_timm, *CPU, "--image", "a.png", "b.png")
    assert finished.code == 2
    assert [record["image"] for record in read_run().events("inference")] == ["a.png"]
    assert read_run().records[-1]["status"] == "error"
    finished = infer("--model", tiny_timm, *CPU, "--image", "a.png", "b.png", "--output", "features.npy")
    assert finished.code == 2
    assert not Path("features.npy").exists()


def test_the_earlier_log_is_set_aside(infer: Runner) -> None:
    infer(*DEMO)
    earlier = Path("logs/inference.log").read_bytes()
    infer(*DEMO, "--image", "nosuch.jpg")
    assert Path("logs/inference.prev.log").read_bytes() == earlier
    assert read_run().records[-1]["status"] == "error"


@pytest.mark.parametrize(
    ("code", "named"),
    [(NO_CANN, ("torch_npu", "set_env.sh", "--device cpu")), (NO_TORCH, ("torch is not installed", "pip install"))],
    ids=["torch_npu without CANN", "no torch"],
)
def test_a_torch_that_can_not_be_imported(
    code: str, named: tuple[str, ...], run_script: Runner, tmp_path: Path
) -> None:
    """One line says how to mend it, and env_check.log is there to find out why."""
    package = tmp_path / "broken" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    finished = run_script("inference.py", "--model", "demo", env={"PYTHONPATH": path})
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(words in line for words in named), line
    assert re.search(r"^torch +\d", (tmp_path / "logs" / "env_check.log").read_text(), re.MULTILINE)
    assert read_run(tmp_path / "logs" / "inference.log").records[-1]["status"] == "error"


# ------------------------------------------------------------------------------------------------ folders, and resuming
KILL_AT = """
import os, runpy, signal, sys
import PIL.Image
opened, count = PIL.Image.open, iter(range(10**6))
def open_or_die(*arguments, **keywords):
    if next(count) == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(*arguments, **keywords)
PIL.Image.open = open_or_die
runpy.run_path(os.environ["SCRIPT"], run_name="__main__")
"""


def test_a_killed_run_is_resumed_to_the_same_bytes(
    run_script: Runner, forks: Forks, tiny_timm: Path, tmp_path: Path
) -> None:
    """Killed at its 21st image of 30; the second run decodes what is missing and no more."""
    for number in range(30):
        noise(tmp_path / "photos" / f"{number:02}.png", seed=number)
    (tmp_path / "killed.py").write_text(KILL_AT)
    arguments = ("--model", tiny_timm, *CPU, "--image", "photos", "--batch-size", 2, "--workers", 0, "--output")
    file, script = "features.safetensors", ROOT / "inference.py"
    assert run_script("inference.py", *arguments, "whole.safetensors").code == 0

    killed = forks.run(tmp_path / "killed.py", *arguments, file, cwd=tmp_path, path=(ROOT,), SCRIPT=script, KILL_AT=20)
    assert killed.code == -9
    assert not (tmp_path / file).exists()
    assert not list(tmp_path.glob("**/*.new"))
    assert read_run(tmp_path / "logs" / "inference.log").problems

    resumed = forks.run(
        tmp_path / "killed.py", *arguments, file, "--resume", cwd=tmp_path, path=(ROOT,), SCRIPT=script, KILL_AT=15
    )
    assert resumed.code == 0, resumed.stderr
    assert "Resumed: 5 of 8 parts are there" in resumed.stdout
    assert (tmp_path / file).read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len(read_run(tmp_path / "logs" / "inference.log").events("inference")) == 30
    assert not (tmp_path / f"{file}.parts").exists()


def test_resume_where_nothing_is_left_to_compute(
    infer: Runner, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.features import files

    noise(Path("photos/a.png"), seed=0)
    arguments = ("--model", tiny_timm, *CPU, "--image", "photos", "--output", "features.npy")
    with monkeypatch.context() as patch:
        patch.setattr(files.FeatureParts, "join", lambda parts, about: sys.exit(9))  # cut just before the end
        assert infer(*arguments).code == 9
    assert infer(*arguments, "--resume").code == 0
    assert len(read_run().events("env")) == len(read_run().events("model")) == 1
    assert len(np.load("features.npy")) == 1


def test_resume_refuses_a_folder_that_changed(infer: Runner, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.features import files

    noise(Path("photos/a.png"), seed=0)
    arguments = ("--model", tiny_timm, *CPU, "--image", "photos", "--output", "features.npy")
    with monkeypatch.context() as patch:
        patch.setattr(files.FeatureParts, "join", lambda parts, about: sys.exit(9))
        assert infer(*arguments).code == 9
    noise(Path("photos/b.png"), seed=1)
    finished = infer(*arguments, "--resume")
    assert finished.code == 2
    assert "is of another run (images_sha256, batches differ)" in finished.stderr


@pytest.mark.parametrize(("suffix", "read"), READERS)
def test_a_file_of_pooled_features_says_so(
    infer: Runner, tiny_timm: Path, suffix: str, read: Callable[[Path], Features]
) -> None:
    arguments = ("--model", tiny_timm, *CPU, "--output")
    assert infer(*arguments, f"logits{suffix}").code == 0
    assert infer(*arguments, f"pooled{suffix}", "--features", "pooled").code == 0
    (logits, of_logits), (pooled, of_pooled) = read(Path(f"logits{suffix}")), read(Path(f"pooled{suffix}"))
    assert (of_logits.shape, of_pooled.shape) == ((1, 10), (1, 64))
    assert (logits["embedding_is"], pooled["embedding_is"]) == ("output of the head", "CLS token")
    assert ("features" in logits, pooled["features"]) == (False, "pooled")
    assert logits["weights_sha256"] == pooled["weights_sha256"]


KINDS = [("embedding", "pooled"), ("pooled", "embedding")]


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
@pytest.mark.parametrize(("first", "then"), KINDS)
def test_resume_refuses_a_finished_file_of_the_other_features(
    first: str, then: str, suffix: str, infer: Runner, tiny_timm: Path
) -> None:
    arguments = ("--model", tiny_timm, *CPU, "--output", f"f{suffix}", "--features")
    assert infer(*arguments, first).code == 0
    before = Path(f"f{suffix}").read_bytes()
    finished = infer(*arguments, then, "--resume")
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: --resume: f{suffix} is finished, with --features {first}, not {then}")
    assert "is finished: there is nothing to resume" in infer(*arguments, first, "--resume").stdout
    assert Path(f"f{suffix}").read_bytes() == before
    assert infer(*arguments, then).code == 0  # without --resume it is made again
    assert Path(f"f{suffix}").read_bytes() != before


@pytest.mark.parametrize(("first", "then"), KINDS)
def test_resume_refuses_parts_of_other_features(
    first: str, then: str, infer: Runner, tiny_timm: Path, tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model whose embedding is its pooled features they are the same."""
    from common.features import files

    for model in (tiny_timm, tiny_vit):
        arguments = ("--model", model, *CPU, "--output", "f.npy", "--features")
        with monkeypatch.context() as patch:
            patch.setattr(files.FeatureParts, "join", lambda parts, about: sys.exit(9))
            assert infer(*arguments, first).code == 9
        finished = infer(*arguments, then, "--resume")
        if model == tiny_timm:
            assert finished.code == 2
            assert "is of another run (embedding_is differ)" in finished.stderr
        else:
            assert "Resumed: 1 of 1 parts are there" in finished.stdout
            assert json.loads(Path("f.json").read_text()).get("features", "embedding") == then


@pytest.mark.parametrize(("name", "content"), [("f.npy", None), ("f.safetensors", b"half a file"), ("f.npy", b"[]")])
def test_a_file_that_does_not_say_its_features_has_the_default(name: str, content: bytes | None, infer: Runner) -> None:
    Path(name).write_bytes(content or b"")
    if content:
        Path(name).with_suffix(".json").write_bytes(content)
    assert infer(*DEMO, "--output", name, "--resume").code == 0
    assert infer(*DEMO, "--output", name, "--resume", "--features", "pooled").code == 2


def test_pooled_features_that_there_are_not_are_refused_before_images_are_read(infer: Runner, tmp_path: Path) -> None:
    folder = save_timm(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({**TINY_TIMM, "model_args": {"global_pool": ""}}))
    Path("broken.png").write_text("no image")
    finished = infer("--model", folder, *CPU, "--image", "broken.png", "--features", "pooled")
    assert finished.code == 2
    assert finished.stderr == "error: VisionTransformer has no pooled features: it was built without a pooling\n"


def test_a_damaged_image_in_a_folder_is_left_out_named_and_counted(infer: Runner, tiny_timm: Path) -> None:
    for name in ("a", "c"):
        noise(Path(f"photos/{name}.png"), seed=0)
    Path("photos/b.png").write_text("no image")
    arguments = ("--model", tiny_timm, *CPU, "--image", "photos", "--batch-size", 2, "--output", "features.npy")
    finished = infer(*arguments)
    assert finished.code == 0
    assert "warning: b.png is left out: " in finished.stdout
    assert "Skipped images: 1 of 3" in finished.stdout
    assert json.loads(Path("features.json").read_text())["images"] == ["a.png", "c.png"]
    assert [record["image"] for record in read_run().events("skipped")] == ["b.png"]

    strict = infer(*arguments, "--strict-images")
    assert strict.code == 2
    assert "b.png can't be decoded" in strict.stderr
    Path("photos/a.png").unlink()
    Path("photos/c.png").unlink()
    for output in ((), ("--output", "none.npy")):
        finished = infer("--model", tiny_timm, *CPU, "--image", "photos", *output)
        assert finished.code == 2
        assert "none of the" in finished.stderr


def test_many_images_are_recorded_and_a_few_are_printed(infer: Runner, tiny_timm: Path) -> None:
    for number in range(topk.MOST_PRINTED + 2):
        noise(Path(f"photos/{number:02}.png"), seed=number)
    finished = infer("--model", tiny_timm, *CPU, "--image", "photos", "--batch-size", 5)
    assert finished.stdout.count("Top-5 outputs") == topk.MOST_PRINTED
    assert "... and 2 more images" in finished.stdout
    assert len(read_run().events("inference")) == topk.MOST_PRINTED + 2


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, infer: Runner, tiny_timm: Path) -> None:
    for number in range(7):
        noise(Path(f"photos/{number}.png"), seed=number)
    arguments = ("--model", tiny_timm, *CPU, "--image", "photos", "--batch-size", 2)
    assert infer(*arguments, "--output", "direct.npy", "--workers", 0).code == 0
    assert infer(*arguments, "--output", "features.npy", "--workers", workers).code == 0
    assert Path("features.npy").read_bytes() == Path("direct.npy").read_bytes()


def test_a_worker_that_dies_is_an_error_with_advice(
    infer: Runner, tiny_timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        noise(Path(f"photos/{number}.png"), seed=number)
    monkeypatch.setattr(decoding.Sample, "load", lambda sample: os._exit(1))
    finished = infer("--model", tiny_timm, *CPU, "--image", "photos", "--workers", 1)
    assert finished.code == 2
    assert "--workers 0" in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_of_the_preprocessing_is_ours_and_not_the_workers(workers: int, tmp_path: Path) -> None:
    def refuse(image: Image.Image) -> torch.Tensor:
        raise RuntimeError("no such interpolation")

    samples = [decoding.Sample("a.png", noise(tmp_path / "a.png", seed=0))] * 2
    with pytest.raises(RuntimeError, match="no such interpolation"):
        list(batching.load(batching.Batches(samples, 1, refuse, strict=False), [0, 1], workers))


# ---------------------------------------------------------------------------------------------------- ways to be wrong
WRONG = {
    "no such image": (DEMO, ("--image", "nosuch.jpg"), "nosuch.jpg"),
    "folder without images": (DEMO, ("--image", "empty"), "no images in the folder empty"),
    "truncated image": (DEMO, ("--image", "cut.jpg"), "cut.jpg can't be decoded"),
    "text as an image": (DEMO, ("--image", "text.jpg"), "text.jpg can't be decoded"),
    "wrong image after a right one": (DEMO, ("--image", "whole.jpg", "text.jpg"), "text.jpg can't be decoded"),
    "unknown timm model": (("--model", "timm/nosuch"), ("--weights", "random", *CPU), "nosuch"),
    "no model id": (("--model", "nosuch"), CPU, "neither a folder"),
    "no such weights": (("--model", "timm/test_vit"), ("--weights", "nosuch.safetensors"), "nosuch.safetensors"),
    "weights of another model": (("--model", "timm/test_vit"), ("--weights", "other.safetensors"), "cls_token"),
    "pickled weights": (("--model", "timm/test_vit"), ("--weights", "text.jpg"), ".safetensors, .bin"),
    "log folder is a file": (DEMO, ("--log-dir", "text.jpg"), "--log-dir"),
    "log folder below a file": (DEMO, ("--log-dir", "text.jpg/logs"), "--log-dir"),
    "npy below a file": (DEMO, ("--output", "text.jpg/features.npy"), "features.npy can't be written"),
    "safetensors below a file": (DEMO, ("--output", "text.jpg/f.safetensors"), "f.safetensors can't be written"),
    "a folder, before the model is looked for": (("--model", "nosuch"), ("--output", "folder.npy"), "Is a directory"),
    "npy where no file can be": (DEMO, ("--output", "/proc/f.npy"), "f.npy can't be written"),
    "safetensors where no file can be": (DEMO, ("--output", "/proc/f.safetensors"), "f.safetensors can't be written"),
}  # fmt: skip
USAGE = {
    "features of an unknown kind": (("--output", "features.csv"), "features.csv"),
    "features of no kind": (("--output", "features"), "features"),
    "batch size 0": (("--batch-size", "0"), "--batch-size"),
    "features of no name": (("--features", "logits"), "--features"),
    "topk 0": (("--topk", "0"), "--topk"),
    "batch size in words": (("--batch-size", "two"), "--batch-size"),
    "device of no kind": (("--device", "npu:x"), "npu:N"),
    "no image": (("--image",), "--image"),
}  # fmt: skip


@pytest.fixture
def wrong_files(tmp_path: Path, tiny_vit: Path) -> None:
    for name in ("empty", "folder.npy"):
        (tmp_path / name).mkdir()
    (tmp_path / "text.jpg").write_text("A photo, it says.")
    noise(tmp_path / "whole.jpg", seed=0)
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(tiny_vit / "model.safetensors", tmp_path / "other.safetensors")


@pytest.mark.usefixtures("wrong_files")
@pytest.mark.parametrize(("model", "arguments", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_input_is_one_line_and_exit_2(
    model: tuple[str, ...], arguments: tuple[str, ...], named: str, infer: Runner
) -> None:
    finished = infer(*model, *arguments)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE)
def test_a_usage_error_ends_in_one_line_and_exit_2(arguments: tuple[str, ...], named: str, infer: Runner) -> None:
    finished = infer(*DEMO, *arguments)
    assert finished.code == 2
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert errors == finished.stderr.splitlines()[-1:]
    assert named in errors[0]
    assert "Traceback" not in finished.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="this machine has torch_npu")
@pytest.mark.parametrize("device", ["npu", "npu:9"])
def test_an_npu_without_torch_npu_is_no_fallback(infer: Runner, device: str) -> None:
    finished = infer("--model", "demo", "--device", device)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: --device {device}: torch_npu is not installed")
    assert "--device cpu" in line


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends written in Python; 2.14 has",
)
def test_an_npu_that_is_not_there_says_how_many_are(run_script: Runner) -> None:
    path = os.pathsep.join(filter(None, [str(SIMULATED_NPU), os.environ.get("PYTHONPATH")]))
    finished = run_script("inference.py", "--model", "demo", "--device", "npu:9", env={"PYTHONPATH": path})
    assert finished.code == 2
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --device npu:9: ")
    assert "1 NPU device" in line


@pytest.mark.parametrize("debug", [False, True])
def test_only_debug_shows_the_traceback(infer: Runner, debug: bool) -> None:
    finished = infer(*DEMO, "--image", "nosuch.jpg", *(["--debug"] if debug else []))
    assert finished.code == 2
    assert ("Traceback (most recent call last):" in finished.stderr) is debug
    assert finished.stderr.splitlines()[-1] == "error: no such image: nosuch.jpg"
