"""Images, weights and configs from strangers: a table of what each is told, in one line and with exit 2."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import PERF_QUICK, Finished, Runner
from helpers import logs
from helpers.logs import RunOnDisk
from PIL import Image
from safetensors.torch import load_file, save_file

import accuracy_run
import accuracy_run_perf
import check_accuracy_run_perf
import inference
from common.cli import launch
from common.encoder import weights
from common.images import decoding

INDEX = "model.safetensors.index.json"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Run a script in this process, as its last line does, in a folder of the test."""
    monkeypatch.chdir(tmp_path)

    def call(script: ModuleType, *arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", [script.SCRIPT, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            launch.run(script.main)
        printed = capfd.readouterr()
        return Finished(int(str(left.value.code)), printed.out, printed.err)

    with mock.patch.dict(os.environ):
        yield call


def read_run(log: str) -> RunOnDisk:
    found = logs.read_run(Path("logs", log))
    assert found.problems == []
    return found


def photo(path: Path, seed: int = 0, **saving: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 30)).save(path, **saving)
    return path


def save_mode(path: Path, mode: str) -> None:
    photo(path)
    Image.open(path).convert("L" if mode == "I;16" else "RGB").convert(mode).save(path)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is so large, without the data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def animation(path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def unreadable(path: Path) -> None:
    photo(path).chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is unreadable to this user")


def with_transparency(path: Path) -> None:
    image = Image.open(photo(path)).convert("P")
    image.info["transparency"] = bytes(range(256))
    image.save(path)


def cut(path: Path) -> None:
    path.write_bytes(photo(path).read_bytes()[:-60])


# ------------------------------------------------------------------------------------------------------- images
# What an image is, its name, how it is made, and what is said of it; None where it is taken.
UNDECODABLE = "can't be decoded as an image: "
IMAGES: dict[str, tuple[str, Callable[[Path], object], str | None]] = {
    "truncated JPEG": ("a.jpg", cut, "a.jpg can't be decoded as an image: image file is truncated"),
    "truncated PNG": ("a.png", cut, "a.png can't be decoded as an image: "),
    "zero bytes": ("a.jpg", Path.touch, "a.jpg can't be decoded as an image: cannot identify image file"),
    "text": ("a.jpg", lambda path: path.write_text("no image"), "a.jpg can't be decoded as an image: cannot identify"),
    "wrong extension": ("a.jpg", lambda path: photo(path, format="PNG"), None),
    "decompression bomb": ("a.png", lambda path: path.write_bytes(png_of_size(60_000, 60_000)),
                           UNDECODABLE + "Image size (3600000000 pixels) exceeds limit of 178956970 pixels"),
    "PostScript": ("a.eps", lambda path: photo(path), "a.eps is EPS, a program and no image"),
    "CMYK": ("a.jpg", lambda path: save_mode(path, "CMYK"), None),
    "16 bits": ("a.png", lambda path: save_mode(path, "I;16"), None),
    "palette with transparency": ("a.png", with_transparency, None),
    "greyscale": ("a.png", lambda path: save_mode(path, "L"), None),
    "greyscale with alpha": ("a.png", lambda path: save_mode(path, "LA"), None),
    "palette with alpha": ("a.tif", lambda path: save_mode(path, "PA"), None),
    "one bit": ("a.png", lambda path: save_mode(path, "1"), None),
    "1 x 1": ("a.png", lambda path: Image.new("RGB", (1, 1)).save(path), None),
    "1 x 20000": ("a.png", lambda path: Image.new("RGB", (1, 20_000)).save(path),
                  "a.png is 1 x 20000, more than 500 times as long as wide"),
    "animated GIF": ("a.gif", animation, None),
    "animated WebP": ("a.webp", animation, None),
    "FIFO": ("a.jpg", os.mkfifo, "a.jpg is no regular file"),
    "device": ("a.jpg", lambda path: path.symlink_to("/dev/zero"), "a.jpg is no regular file"),
    "unreadable": ("a.jpg", unreadable, "a.jpg can't be decoded as an image: [Errno 13] Permission denied"),
    "symlink to itself": ("a.jpg", lambda path: path.symlink_to(path.name), "no such image: "),
    "dangling symlink": ("a.jpg", lambda path: path.symlink_to("nowhere.jpg"), "no such image: "),
    "name with spaces": ("a b  c.jpg", photo, None),
    "name with quotes": ("a\"'`$.jpg", photo, None),
    "name with newlines": ("a\nb\r.jpg", photo, None),
    "Chinese name": ("图像.jpg", photo, None),
    "name that is no UTF-8": (os.fsdecode(b"\xff\xfe.jpg"), photo, None),
    "bad image with a wild name": ("a\n@record \x1b[2J.jpg", Path.touch,
                                   "\\n\\x40record \\x1b[2J.jpg can't be decoded"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "make", "told"), IMAGES.values(), ids=IMAGES)
def test_an_image_is_taken_or_refused_in_one_line(
    name: str, make: Callable[[Path], object], told: str | None, run: Runner, tiny_vit: Path, tmp_path: Path
) -> None:
    make(tmp_path / name)
    finished = run(inference, "--model", tiny_vit, "--device", "cpu", "--image", tmp_path / name)
    if told is None:
        assert (finished.code, finished.stderr) == (0, "")
        (record,) = read_run("inference.log").events("inference")
        assert record["image"] == name
        return
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


@pytest.mark.parametrize("script", [inference, accuracy_run])
@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_of_an_animation_the_first_frame_is_taken_and_the_log_says_so(
    script: ModuleType, name: str, run: Runner, tiny_vit: Path
) -> None:
    animation(Path(name))
    few = ("--samples", "1") if script is accuracy_run else ()
    finished = run(script, "--model", tiny_vit, "--device", "cpu", "--image", name, *few)
    assert finished.code == 0, finished.stderr
    assert f"{name} has 3 frames: the first is taken" in finished.stdout.splitlines()
    red, green, _ = np.asarray(decoding.Sample(name, Path(name)).load())[10, 10].tolist()
    assert red > 200
    assert green < 50


@pytest.mark.filterwarnings("error")
def test_a_large_image_is_taken_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here on, and refuses twice as many
    assert decoding.Sample("", photo(tmp_path / "a.png")).load().size == (40, 30)


def folder_with_bad_images() -> None:
    photo(Path("photos/b.png"), seed=1)
    photo(Path("photos/d.png"), seed=2)
    Path("photos/a.png").touch()
    cut(Path("photos/c.jpg"))
    os.mkfifo("photos/e.png")
    Path("photos/f.png").symlink_to("f.png")
    Path("photos/loop").symlink_to(".")


def test_bad_images_in_a_folder_are_left_out_named_and_the_next_ones_taken(run: Runner, tiny_vit: Path) -> None:
    folder_with_bad_images()
    common = ("--model", tiny_vit, "--device", "cpu", "--image", "photos")
    finished = run(accuracy_run, *common, "--samples", 3)
    assert finished.code == 0, finished.stderr
    assert "warning: a.png is left out: it can't be decoded" in finished.stdout
    found = read_run("accuracy.log")
    assert {record["image"]: record["reason"].partition(":")[0] for record in found.events("skipped")} == {
        "a.png": "can't be decoded as an image",
        "c.jpg": "can't be decoded as an image",
        "e.png": "is no regular file",
        "f.png": "is not there",
    }
    samples = [record["image"] for record in found.events("sample") if record["output"] == "embedding"]
    assert samples == ["b.png", "d.png", "b.png crop 1"]
    assert run(accuracy_run_perf, *common, *PERF_QUICK).code == 0
    assert {record["image"] for record in read_run("benchmark.log").events("perf")} == {"b.png"}
    assert run(check_accuracy_run_perf).code == 0


@pytest.mark.parametrize("script", [inference, accuracy_run, accuracy_run_perf])
def test_strict_images_makes_a_bad_one_in_a_folder_an_error(script: ModuleType, run: Runner, tiny_vit: Path) -> None:
    folder_with_bad_images()
    finished = run(script, "--model", tiny_vit, "--device", "cpu", "--image", "photos", "--strict-images")
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert "photos/a.png can't be decoded" in line


@pytest.mark.parametrize("script", [accuracy_run, accuracy_run_perf])
def test_a_bad_image_that_is_named_is_an_error_and_so_are_bad_ones_alone(
    script: ModuleType, run: Runner, tiny_vit: Path
) -> None:
    folder_with_bad_images()
    common = ("--model", tiny_vit, "--device", "cpu", "--image")
    assert "photos/a.png can't be decoded" in run(script, *common, "photos", "photos/a.png").stderr
    Path("bad").mkdir()
    Path("bad/a.png").touch()
    finished = run(script, *common, "bad")
    assert finished.code == 2
    assert finished.stderr == "error: none of the 1 images could be decoded\n"


# ------------------------------------------------------------------------------------------------------ weights
def file_of(folder: Path) -> Path:
    return folder / "model.safetensors"


def with_header(header: bytes, length: int | None = None) -> Callable[[Path], object]:
    start = struct.pack("<Q", len(header) if length is None else length)
    return lambda folder: file_of(folder).write_bytes(start + header + bytes(64))


def tensors(*offsets: tuple[int, int]) -> bytes:
    described = {f"t{at}": {"dtype": "F32", "shape": [4], "data_offsets": pair} for at, pair in enumerate(offsets)}
    return json.dumps(described).encode()


def edited(edit: Callable[[dict[str, torch.Tensor], str], object]) -> Callable[[Path], object]:
    """An edit of the tensors, which is given the name of a weight too."""

    def make(folder: Path) -> None:
        state = load_file(file_of(folder))
        edit(state, next(key for key in sorted(state) if key.endswith("weight") and state[key].ndim > 1))
        file_of(folder).unlink()
        save_file({key: value.clone() for key, value in state.items()}, file_of(folder), metadata={"format": "pt"})

    return make


def as_dtype(dtype: torch.dtype) -> Callable[[Path], object]:
    return edited(lambda state, name: state.update({name: state[name].to(dtype)}))


def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        file_of(folder).unlink()
        make(file_of(folder))

    return replace


def index(content: object) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))


def config(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_bytes(content)


def zipped(folder: Path) -> None:
    torch.save({"a": torch.zeros(3)}, file_of(folder))  # a zip with a pickle in it


NO_FILE = "lacks model.safetensors, or it is no regular file"
OUTSIDE = "no .safetensors file of its own folder"
WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: os.truncate(file_of(f), file_of(f).stat().st_size - 9), "is no whole safetensors file: "),
    "zero bytes": (lambda f: os.truncate(file_of(f), 0), "is no whole safetensors file: "),
    "header of absurd length": (with_header(b"{}", length=2**62), "header too large"),
    "header that is no JSON": (with_header(b"{nonsense"), "invalid JSON in header"),
    "overlapping offsets": (with_header(tensors((0, 16), (8, 24))), "invalid offset"),
    "offsets beyond the file": (with_header(tensors((0, 16000))), "is no whole safetensors file: "),
    "pickle": (lambda f: file_of(f).write_bytes(b"\x80\x04\x95" + bytes(100)), "is no whole safetensors file: "),
    "zip with a pickle": (zipped, "is no whole safetensors file: "),
    "integers": (as_dtype(torch.int32), "holds quantised weights, which are not read ("),
    "float8": (as_dtype(torch.float8_e4m3fn), "holds quantised weights, which are not read ("),
    "wrong shape": (edited(lambda state, name: state.update({name: torch.zeros(3, 3)})), "(1 misshapen: "),
    "missing key": (edited(lambda state, name: state.pop(name)), "(1 missing: "),
    "extra key": (edited(lambda state, _: state.update({"extra.weight": torch.zeros(2)})), "unexpected: extra.weight"),
    "dangling symlink": (replaced(lambda file: file.symlink_to("nowhere")), NO_FILE),
    "symlink to itself": (replaced(lambda file: file.symlink_to(file.name)), NO_FILE),
    "FIFO": (replaced(os.mkfifo), NO_FILE),
    "folder": (replaced(Path.mkdir), NO_FILE),
    "no file": (replaced(lambda file: None), "has 0 .safetensors files"),
    "index that names a missing shard": (index({"weight_map": {"a": "b.safetensors"}}), "lacks b.safetensors"),
    "index that leaves its folder": (index({"weight_map": {"a": "../b.safetensors"}}), OUTSIDE),
    "index with an absolute path": (index({"weight_map": {"a": "/b.safetensors"}}), OUTSIDE),
    "index that names a number": (index({"weight_map": {"a": 3}}), OUTSIDE),
    "index that names nothing": (index({"weight_map": {}}), "names no shard"),
    "index that is a list": (index([]), "is no index of safetensors shards"),
    "index that is nested deeply": (index("[" * 100_000), "is no index of safetensors shards"),
    "config that is a list": (config(b"[]"), "config.json holds no JSON object"),
    "config that is not UTF-8": (config(b"\xff{}"), "config.json can't be read as JSON"),
    "config that is nested deeply": (config(b"[" * 100_000), "config.json can't be read as JSON"),
    "config that is huge": (config(b" " * 17_000_000 + b"{}"), "config.json is larger than any config"),
}  # fmt: skip


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize(("make", "told"), WEIGHTS.values(), ids=WEIGHTS)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(
    make: Callable[[Path], object], told: str, library: str, run: Runner, tiny_timm: Path, tiny_vit: Path
) -> None:
    shutil.copytree(tiny_timm if library == "timm" else tiny_vit, "model")
    make(Path("model"))
    finished = run(inference, "--model", "model", "--device", "cpu")
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert len(line) < 500


def test_code_beside_a_config_is_never_run(run: Runner, tiny_vit: Path) -> None:
    """transformers would ask on a terminal whether to run it; here the model's own type decides."""
    shutil.copytree(tiny_vit, "model")
    Path("model/evil.py").write_text("open('run', 'w')\n")
    asked = json.loads(Path("model/config.json").read_text()) | {
        "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    }
    Path("model/config.json").write_text(json.dumps(asked))
    assert run(inference, "--model", "model", "--device", "cpu").code == 0
    Path("model/config.json").write_text(json.dumps({**asked, "model_type": "evil"}))
    finished = run(inference, "--model", "model", "--device", "cpu")
    assert finished.code == 2
    assert "is made by code that comes with it (auto_map), which is never run" in finished.stderr
    assert not Path("run").exists()


def test_a_sharded_checkpoint_is_read_by_its_index(run: Runner, tiny_timm: Path) -> None:
    shutil.copytree(tiny_timm, "model")
    state = load_file("model/model.safetensors")
    Path("model/model.safetensors").unlink()
    shards = {f"s{at}.safetensors": {key: state[key].clone() for key in sorted(state)[at::2]} for at in range(2)}
    for name, shard in shards.items():
        save_file(shard, Path("model", name))
    names = {key: name for name, shard in shards.items() for key in shard}
    index({"weight_map": names})(Path("model"))
    assert run(accuracy_run, "--model", "model", "--device", "cpu", "--samples", "1").code == 0
    (model,) = read_run("accuracy.log").events("model")
    assert model["weights_sha256"] == weights.files_sha256(
        [Path("model", name) for name in dict.fromkeys(names.values())]
    )


@pytest.mark.parametrize("script", [inference, accuracy_run, accuracy_run_perf])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, script: ModuleType, run: Runner, tiny_timm: Path) -> None:
    shutil.copytree(tiny_timm, "model")
    edited(lambda state, name: state["norm.weight"].fill_(value))(Path("model"))
    few = {accuracy_run: ("--samples", "1"), accuracy_run_perf: PERF_QUICK}.get(script, ())
    finished = run(script, "--model", "model", "--device", "cpu", *few)
    assert finished.code == 0, finished.stderr
    assert "warning: 1 weights hold NaN or infinity: model.norm.weight" in finished.stdout.splitlines()
