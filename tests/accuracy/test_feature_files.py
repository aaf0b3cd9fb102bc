"""Feature files as a reference, and as the device's side: the figures of one run that did both, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accuracy.test_reference import counted_forwards
from conftest import PERF_QUICK, TINY_TIMM, Runner, save_timm
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import Edit, Records, change, drop, edited, find, read_records
from helpers.npu_runs import CHECK, ON_NPU, VIT
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import accuracy_run
import accuracy_run_perf
import check_accuracy_run_perf as checker
import inference
from common.accuracy import feature_comparison
from common.errors import UserError
from common.log import formulas, samples
from common.log.events import METRICS
from common.log.writer import NoLog

COUNT = 6
Tensors = dict[str, np.ndarray]
Metadata = dict[str, str]


def run(log_dir: Path, *arguments: object) -> Records:
    """The records of an accuracy run in this process."""
    assert accuracy_run.main([*map(str, arguments), "--log-dir", str(log_dir)]) == 0
    return read_records(log_dir / "accuracy.log")


def write_images(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 50)).save(path)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos", COUNT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, images: Path) -> Path:
    """What inference.py wrote of these images: r in float32, y in float16, each as safetensors and as npy."""
    folder = tmp_path_factory.mktemp("features")
    for name, dtype in (("r", "float32"), ("y", "float16")):
        for suffix in (".safetensors", ".npy"):
            common = ["--model", str(tiny_timm), "--device", "cpu", "--image", str(images), "--workers", "0"]
            output = ["--output", str(folder / (name + suffix)), "--log-dir", str(folder / "logs")]
            assert inference.main([*common, "--dtype", dtype, *output]) == 0
    return folder


def figures(records: Records, output: str = "embedding") -> list[dict[str, Any]]:
    """What was measured of an output, image by image."""
    keys = ("image", "image_sha256", "nonfinite", "fingerprint", "shape", "dtype", "device", *METRICS)
    found = [record for record in records if record["event"] == "sample" and record["output"] == output]
    return [{key: record.get(key) for key in keys} for record in found]


# ----------------------------------------------------------------------------------------------- the same figures
@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_two_files_give_the_figures_of_one_run_that_did_both(
    suffix: str, folder: Path, images: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    device = ("--model", tiny_timm, "--device", "cpu", "--dtype", "float16")
    both = run(tmp_path / "both", *device, "--image", images, "--samples", "all")
    with counted_forwards() as calls:
        files = run(tmp_path, "--reference", folder / f"r{suffix}", "--candidate", folder / f"y{suffix}")
    assert calls == []
    assert figures(files) == figures(both)
    assert len(figures(files)) == COUNT
    assert figures(files)[0]["relative_l2"] > 0
    assert not figures(files, "hidden_state")
    for metric in METRICS:
        found = [find(records, "accuracy", output="embedding")[metric] for records in (files, both)]
        assert found[0] == found[1], metric


def test_a_device_is_compared_with_a_file(folder: Path, images: Path, tiny_timm: Path, tmp_path: Path) -> None:
    """Its own forwards alone, and of the 16 bits' emulation; images matched by name, whatever their order."""
    device = ("--model", tiny_timm, "--device", "cpu", "--dtype", "float16", "--image", images)
    with counted_forwards() as calls:
        found = run(tmp_path, *device, "--reference", folder / "r.npy")
    assert sorted(calls) == sorted([("cpu", "torch.float16")] * (COUNT + 2) + [("cpu", "torch.float32")] * 2)
    files = run(tmp_path, "--reference", folder / "r.npy", "--candidate", folder / "y.npy")
    assert figures(found) == figures(files)
    assert find(found, "accuracy")["expected_relative_l2"] > 0
    assert len([record for record in found if record["event"] == "repeat"]) == 4
    few = run(tmp_path, *device, "--reference", folder / "r.npy", "--samples", "2")
    assert figures(few) == figures(files)[:2]


def test_the_log_says_what_both_sides_are(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = run(tmp_path, "--reference", folder / "r.safetensors", "--candidate", folder / "y.safetensors")
    source, candidate = find(records, "reference_source"), find(records, "candidate_source")
    for record, name in ((source, "r.safetensors"), (candidate, "y.safetensors")):
        assert record["file"] == name
        assert record["file_sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert (source["precisions"], source["dtype"], source["device"]) == (["features"], "float32", "cpu")
    made_by = read_records(folder / "logs" / "inference.log")  # the last of the runs that made them
    assert {**find(records, "env"), "run": 0, "seq": 0} == {**find(made_by, "env"), "run": 0, "seq": 0}
    assert find(records, "model")["dtype"] == "float16"
    assert find(records, "model")["references"] == ["features"]
    capsys.readouterr()
    assert checker.main([str(tmp_path / "accuracy.log"), "--only", "accuracy"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the device's side is y.safetensors, a file of inference.py: no encoder ran here." in said
    assert "the reference is r.safetensors: embeddings by cpu" in said
    assert "float32 strict; the hidden state was not compared." in said


def test_the_checker_ties_files_to_a_performance_run(
    folder: Path, images: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    run(tmp_path, "--reference", folder / "r.safetensors", "--candidate", folder / "y.safetensors")
    device = ["--model", str(tiny_timm), "--device", "cpu", "--dtype", "float16", "--image", str(images)]
    assert accuracy_run_perf.main([*device, *PERF_QUICK, "--log-dir", str(tmp_path)]) == 0
    assert checker.main([str(tmp_path)]) == 0
    scaled = change("sample", "fingerprint", lambda old: [1.1 * value for value in old])
    log = edited(tmp_path / "accuracy.log", tmp_path / "edited.log", scaled)
    assert checker.main([str(log), str(tmp_path / "benchmark.log")]) == 1


@needs_simulated_npu
def test_an_npu_s_file_beside_the_cpu_s_has_the_figures_of_one_run(forks: Forks, images: Path, tmp_path: Path) -> None:
    """With HF32 and the tanh GELU, so that there is an error; the checker judges the files as the NPU's evidence."""
    common = (*VIT, "--image", images)
    npu = (*ON_NPU, "--numerics", "fast")
    for where, name in ((("--device", "cpu"), "cpu.npy"), (npu, "npu.npy")):
        made = forks.run("inference.py", *common, *where, "--workers", 0, "--output", name, cwd=tmp_path)
        assert made.code == 0, made.stderr
    both = forks.run("accuracy_run.py", *common, *npu, "--samples", "all", "--log-dir", "both", cwd=tmp_path)
    files = forks.run("accuracy_run.py", "--reference", "cpu.npy", "--candidate", "npu.npy", cwd=tmp_path)
    assert (both.code, files.code) == (0, 0), both.stderr + files.stderr
    found, expected = (figures(read_records(tmp_path / name / "accuracy.log")) for name in ("logs", "both"))
    assert found == expected
    assert len(found) == COUNT
    assert all(figure["relative_l2"] > 1e-5 for figure in found)
    check = forks.run(*CHECK, "--only", "accuracy", cwd=tmp_path)
    assert check.code == 0, check.stdout
    assert "embeddings by cpu" in " ".join(check.stdout.split())
    over = forks.run("accuracy_run.py", *common, *npu, "--reference", "cpu.npy", "--log-dir", "over", cwd=tmp_path)
    assert figures(read_records(tmp_path / "over" / "accuracy.log")) == expected, over.stderr


# -------------------------------------------------------------------------------------------------- what is refused
def altered(source: Path, target: Path, edit: Callable[[Tensors, Metadata], object]) -> Path:
    with safe_open(source, "np") as opened:
        metadata = dict(opened.metadata())
    tensors = load_file(source)
    edit(tensors, metadata)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, target, metadata)
    return target


def permute(tensors: Tensors, metadata: Metadata, rows: list[int]) -> None:
    names = json.loads(metadata["images"])
    metadata["images"] = json.dumps([names[row] for row in rows])
    for name in tensors:
        tensors[name] = tensors[name][rows]


def rename_first(tensors: Tensors, metadata: Metadata) -> None:
    metadata["images"] = json.dumps(["other.png", *json.loads(metadata["images"])[1:]])


def same_name_twice(tensors: Tensors, metadata: Metadata) -> None:
    names = json.loads(metadata["images"])
    metadata["images"] = json.dumps([names[1], *names[1:]])


def other_contents(tensors: Tensors, metadata: Metadata) -> None:
    tensors["image_sha256"][2, 31] ^= 1


def of_run(event: str, key: str, value: object) -> Callable[[Tensors, Metadata], None]:
    """An edit of a record of the run that made the file; None removes."""

    def edit(_: Tensors, metadata: Metadata) -> None:
        made_by = json.loads(metadata["run"])
        made_by[event][key] = value
        if value is None:
            del made_by[event][key]
        metadata["run"] = json.dumps(made_by)

    return edit


REFUSED: dict[str, tuple[Callable[[Tensors, Metadata], object], str]] = {
    "other weights": (lambda t, m: m.update(weights_sha256="0" * 64),
        "is of other weights than .*: 000000000000..., not"),
    "another preprocessing": (lambda t, m: m.update(preprocess='{"mean": [0.4]}'), "is of other preprocessing than"),
    "pooled features": (lambda t, m: m.update(features="pooled"),
        "is of other features than .*: pooled, not embedding"),
    "another embedding": (lambda t, m: m.update(embedding_is="CLS token"), "is of other embedding than"),
    "a missing image": (lambda t, m: permute(t, m, [0, 1, 3, 4, 5]),
        "lacks 1 of the 6 images of .*, the first class 0/4.png"),
    "another image's name": (rename_first, "lacks 1 of the 6 images of .*, the first class 0/0.png"),
    "other contents": (other_contents, "is of other images than .*: class 0/4.png differs"),
    "another width": (lambda t, m: t.update(embedding=t["embedding"][:, :9]), "has embeddings of 9 values, .* of 10"),
    "the same computation": (of_run("model", "dtype", "float16"), "comparing a thing with itself proves nothing"),
    "no hashes": (lambda t, m: t.pop("image_sha256"), r"does not say what it is of \(image_sha256 missing\)"),
    "nothing of its run": (lambda t, m: m.pop("run"), r"does not say what it is of \(run missing\)"),
    "half of its run": (lambda t, m: m.update(run='{"env": {}}'), "is a damaged feature file"),
    "no names": (lambda t, m: m.pop("images"), "is a damaged feature file"),
    "fewer names": (lambda t, m: m.update(images='["a"]'), "6 embeddings and 1 names"),
    "a name twice": (same_name_twice, "two images have one name"),
    "fewer hashes": (lambda t, m: t.update(image_sha256=t["image_sha256"][:5]), "is a damaged feature file"),
    "no embedding at all": (lambda t, m: permute(t, m, []), "is a damaged feature file"),
    "half precision": (lambda t, m: t.update(embedding=t["embedding"].astype(np.float16)),
        "its embeddings are F16, not F32"),
    "an environment without a device": (of_run("env", "device", None), "its env record: device is missing"),
    "a dtype that nobody knows": (of_run("model", "dtype", "int8"), "its model record: dtype is 'int8'"),
    "a field too many": (of_run("numerics", "bits", 3), "its numerics record: 'bits' is none of its fields"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "named"), REFUSED.values(), ids=REFUSED)
def test_a_reference_that_does_not_fit_is_refused_in_one_line(
    edit: Callable[[Tensors, Metadata], object], named: str, folder: Path, tmp_path: Path
) -> None:
    file = altered(folder / "r.safetensors", tmp_path / "edited.safetensors", edit)
    with pytest.raises(UserError, match=named) as refused:
        run(tmp_path, "--reference", file, "--candidate", folder / "y.safetensors")
    assert "\n" not in str(refused.value)
    assert read_records(tmp_path / "accuracy.log")[-1]["status"] == "error"


def test_a_candidate_without_some_of_the_images_is_refused_unless_so_many_are_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    few = altered(folder / "y.safetensors", tmp_path / "few.safetensors", lambda t, m: permute(t, m, [0, 1]))
    with pytest.raises(UserError, match=r"few.safetensors lacks 4 of the 6 images of .*; --samples N compares"):
        run(tmp_path, "--reference", folder / "r.safetensors", "--candidate", few)
    assert len(figures(run(tmp_path, "--reference", folder / "r.npy", "--candidate", few, "--samples", "2"))) == 2
    with pytest.raises(UserError, match=r"few.safetensors holds 2 images, not 3"):
        run(tmp_path, "--reference", folder / "r.safetensors", "--candidate", few, "--samples", "3")


def test_another_order_is_matched_by_the_names_and_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (folder / "r.safetensors", folder / "y.safetensors")
    expected = figures(run(tmp_path, "--reference", files[0], "--candidate", files[1]))
    turned = altered(files[0], tmp_path / "turned.safetensors", lambda t, m: permute(t, m, [5, 4, 3, 2, 1, 0]))
    assert figures(run(tmp_path, "--reference", turned, "--candidate", files[1])) == expected
    assert "turned.safetensors has the images in another order: they are matched by their names" in (
        capsys.readouterr().out
    )
    _, pairing = feature_comparison.compare(NoLog(), turned, files[1], 0, 0.01, {})
    both = pairing.embeddings
    np.testing.assert_array_equal(both.reference, load_file(files[0])["embedding"])
    np.testing.assert_array_equal(both.candidate, load_file(files[1])["embedding"])
    assert list(both.names) == json.loads(safe_open(files[1], "np").metadata()["images"])


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_nan_is_a_fail_that_names_the_image(
    side: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(tensors: Tensors, _: Metadata) -> None:
        tensors["embedding"][3, 2] = np.nan

    files = {"reference": folder / "r.safetensors", "candidate": folder / "y.safetensors"}
    files[side] = altered(files[side], tmp_path / "nan.safetensors", spoil)
    records = run(tmp_path, "--reference", files["reference"], "--candidate", files["candidate"])
    accuracy = find(records, "accuracy")
    assert (accuracy["result"], accuracy["nonfinite"], accuracy["relative_l2"]) == ("FAIL", 1, None)
    printed = capsys.readouterr().out
    assert "embedding worst image: class 1/1.png (not finite)" in printed
    assert "accuracy: FAIL, worst relative_l2 not finite" in printed
    assert checker.main([str(tmp_path / "accuracy.log"), "--only", "accuracy"]) == 1


def test_files_that_are_none_are_refused(folder: Path, tiny_timm: Path, tmp_path: Path) -> None:
    good = folder / "y.safetensors"
    content = good.read_bytes()
    shutil.copy(folder / "r.npy", tmp_path / "alone.npy")
    for name, bad in {"cut": content[:-5], "text": b"no features", "pointer": b"version https://git-lfs"}.items():
        (tmp_path / name).write_bytes(bad)
    refused = ["cut", "text", "pointer", "alone.npy", "nosuch.npy", "nosuch.safetensors", "."]
    for file in [tmp_path / name for name in refused] + [tiny_timm / "model.safetensors"]:
        with pytest.raises(UserError, match=r"no whole feature file|is a text|git-lfs|damaged|pointer") as error:
            run(tmp_path, "--reference", good, "--candidate", file)
        assert "\n" not in str(error.value)


def test_every_cut_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    from common.features import reading

    for suffix in (".safetensors", ".npy"):
        content = (folder / f"y{suffix}").read_bytes()
        if suffix == ".npy":
            shutil.copy(folder / "y.json", tmp_path / "cut.json")
        for end in range(0, len(content) - 1, len(content) // 40):
            (tmp_path / f"cut{suffix}").write_bytes(content[:end])
            with pytest.raises(UserError, match=r"no whole feature file|is empty|does not say"):
                reading.read(tmp_path / f"cut{suffix}")


DEVICE = ("--device", "cpu", "--dtype", "float16")


def test_images_that_are_not_the_file_s_are_refused_before_any_forward(
    folder: Path, images: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_timm, *DEVICE, "--reference", folder / "r.safetensors", "--image")
    changed = {}
    for name in ("fewer", "more", "other", "damaged"):
        changed[name] = Path(shutil.copytree(images, tmp_path / name))
    (changed["fewer"] / "class 0" / "2.png").unlink()
    shutil.copy(images / "class 0" / "0.png", changed["more"] / "class 0" / "more.png")
    shutil.copy(images / "class 0" / "0.png", changed["other"] / "class 0" / "2.png")
    (changed["damaged"] / "class 0" / "more.png").write_bytes(b"no image")
    with counted_forwards() as calls:
        with pytest.raises(UserError, match=r"has 1 images that --image has not, the first class 0/2.png"):
            run(tmp_path, *model, changed["fewer"])
        with pytest.raises(UserError, match=r"lacks an image of --image: class 0/more.png"):
            run(tmp_path, *model, changed["more"])
    assert calls == []
    with pytest.raises(UserError, match=r"is of other images: its class 0/2.png has another SHA-256"):
        run(tmp_path, *model, changed["other"])
    assert len(figures(run(tmp_path, *model, changed["damaged"]))) == COUNT  # it is in no file


def test_a_device_is_not_compared_with_itself_nor_other_weights(
    folder: Path, images: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    reference = ("--reference", folder / "r.safetensors", "--image", images, "--device", "cpu")
    with pytest.raises(UserError, match="comparing a thing with itself proves nothing"):
        run(tmp_path, "--model", tiny_timm, *reference)
    with pytest.raises(UserError, match="--golden computes on the CPU"):
        run(tmp_path, "--model", tiny_timm, *reference, "--dtype", "float16", "--golden")
    other = save_timm(tmp_path / "other", TINY_TIMM, seed=1)
    with pytest.raises(UserError, match="is of other weights than --model other"):
        run(tmp_path, "--model", other, *reference, "--dtype", "float16")


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (("--device", "npu"), "is of device cpu, not of --device npu"),
        (("--dtype", "bfloat16"), "is of dtype float16, not of --dtype bfloat16"),
        (("--numerics", "fast"), "is of numerics strict, not of --numerics fast"),
        (("--model", "timm/other"), "is of model tiny_timm, not of --model timm/other"),
    ],
)
def test_what_is_typed_must_be_what_the_file_is(
    typed: tuple[str, ...], named: str, folder: Path, tmp_path: Path
) -> None:
    files = ("--reference", folder / "r.npy", "--candidate", folder / "y.npy")
    with pytest.raises(UserError, match=named):
        run(tmp_path, *files, *typed)
    run(tmp_path, *files, "--device", "cpu", "--dtype", "float16", "--model", "elsewhere/tiny_timm")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--candidate", "y.npy"),
        *[("--reference", "r.npy", "--candidate", "y.npy", flag) for flag in ("--golden", "--explain", "--resume")],
        ("--reference", "r.npy", "--candidate", "y.npy", "--image", "photos"),
        ("--save-reference", "r.safetensors", "--resume"),
    ],
)
def test_flags_that_do_not_go_together_are_a_usage_error(arguments: tuple[str, ...], run_script: Runner) -> None:
    failed = run_script("accuracy_run.py", *arguments)
    assert failed.code == 2
    assert failed.stderr.splitlines()[-1].startswith("error: ")


# ---------------------------------------------------------------------------------------------- many, and the checker
@pytest.fixture
def many(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of files of 6 images, of which two have a record of their own and up to three share one."""
    for module in ("common.accuracy.findings", "common.accuracy.comparison"):
        monkeypatch.setattr(f"{module}.MOST_SINGLE", 2)
    monkeypatch.setattr("common.accuracy.findings.MOST_TOGETHER", 3)
    monkeypatch.setattr("common.accuracy.feature_comparison.ROWS", 4)
    run(tmp_path, "--reference", folder / "r.safetensors", "--candidate", folder / "y.safetensors")
    return tmp_path / "accuracy.log"


def test_images_that_share_a_record_are_judged_as_those_that_do_not(
    many: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    records = read_records(many)
    assert [record["first"] for record in records if record["event"] == "samples"] == [2, 5]
    one_each = run(tmp_path / "one_each", "--reference", folder / "r.npy", "--candidate", folder / "y.npy")
    together = find(records, "samples")
    for metric in ("max_abs_error", "relative_error", "relative_l2", "one_minus_cosine", "top1_gap", "top5_match"):
        assert together[metric] == [each[metric] for each in figures(one_each)[2:5]]
    assert together["digests"] == "".join(each["image_sha256"][:16] for each in figures(one_each)[2:5])
    capsys.readouterr()
    assert checker.main([str(many), "--only", "accuracy", "--min-samples", "6"]) == 0
    out = capsys.readouterr().out
    assert "6 images: accuracy.log" in out
    assert "warning: " not in out


def as_sample(key: str, value: object) -> Edit:
    """An edit of the second image that shares the first record."""

    def edit(records: Records) -> None:
        find(records, "samples")[key][1] = value

    return edit


def with_column(key: str, edit: Callable[[Any], Any]) -> Edit:
    return change("samples", key, edit)


EDITS: dict[str, tuple[Edit, int, str]] = {
    "a larger error": (as_sample("relative_l2", 0.5), 1, "embedding: the summary is not that of its images"),
    "a smaller error": (change("accuracy", "relative_l2", 1e-9), 1, "embedding: the summary is not that of its images"),
    "an error below zero": (as_sample("relative_l2", -1e-9), 1, "an error is negative"),
    "an error that is not finite": (as_sample("max_abs_error", None), 1, "max_abs_error is not finite"),
    "some errors zero": (as_sample("max_abs_error", 0.0), 1, "mean_abs_error is above max_abs_error"),
    "an angle too large": (as_sample("one_minus_cosine", 1.0), 1, "one_minus_cosine is more than relative_l2 allows"),
    "another share": (as_sample("top5_match", 2.0), 1, "top5_match is outside [0, 1]"),
    "NaN": (change("samples", "nonfinites", [0, 1, 0]), 1, "has elements that are NaN or infinite"),
    "a list that is shorter": (with_column("relative_l2", lambda old: old[:2]), 2, "lists are of different lengths"),
    "fewer images": (with_column("digests", lambda old: old[:-16]), 2, "lists are of different lengths"),
    "half a hash": (with_column("digests", lambda old: old[:-8]), 2, "lists are of different lengths"),
    "counts that are shorter": (change("samples", "nonfinites", [0]), 2, "lists are of different lengths"),
    "a text in a list": (as_sample("relative_l2", "0"), 2, "relative_l2 is '0', not a number"),
    "a record left out": (drop("samples", first=5), 1, "5, 5 different images, and the summary is of 6"),
    "another place": (change("samples", "first", 3), 2, "its first image is not behind those before"),
    "another device": (change("samples", "device", "npu:0"), 1, "was computed on cpu float16, npu:0 float16, not on"),
    "another shape": (change("samples", "shape", [1, 9]), 1, "has the shape 1 10, not"),
    "another reference": (change("samples", "reference", "float32"), 2, "the run set out for"),
    "a reference that is the same": (change("reference_source", "dtype", "float16"), 1, "proves nothing here"),
    "a reference that says nothing": (drop("reference_source"), 2, "0 reference_source records, not 1"),
    "a saved reference": (change("reference_source", "precisions", ["float32"]), 2, "what computed the features"),
    "a hidden state": (change("accuracy", "output", "hidden_state"), 2, "0 accuracy records of embedding"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "code", "words"), EDITS.values(), ids=EDITS)
def test_an_edited_log_of_files_does_not_pass(
    edit: Edit, code: int, words: str, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = edited(many, tmp_path / "edited.log", edit)
    capsys.readouterr()
    assert checker.main([str(log), "--only", "accuracy"]) == code
    assert words in " ".join(capsys.readouterr().out.split())


def test_images_that_are_the_same_are_counted_once_and_said(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = edited(many, tmp_path / "edited.log", with_column("digests", lambda old: old[:16] + old[:16] + old[32:]))
    capsys.readouterr()
    assert checker.main([str(twice), "--only", "accuracy", "--min-samples", "6"]) == 0
    out = capsys.readouterr().out
    assert "warning: 1 of 6 images are the same as others of them." in out
    assert "warning: 5 different images were compared; --min-samples asks for 6." in out


def test_a_record_of_many_takes_as_much_memory_as_its_text(many: Path) -> None:
    """Else a hundred thousand images would be more than can be judged at once."""
    from common.log.framing import memory, record_text

    text = record_text(find(read_records(many), "samples"))
    assert memory(text, compact=True) < 1.6 * len(text) < memory(text)


def test_the_samples_that_share_a_record_come_apart_as_they_went_in() -> None:
    from helpers.events import SMALL_ERROR, example

    from common.log.events import MEASURED, Sample

    measured = {name: SMALL_ERROR[name] for name in MEASURED}
    own = [
        example(
            Sample,
            output="hidden_state",
            image=f"image {number + 1}",
            image_sha256=f"{number:016x}",
            **formulas.values_of(formulas.complete({**measured, "relative_l2": error})),
            nonfinite=number % 2,
            worst_token=number,
            worst_token_relative_l2=error,
        )
        for number, error in enumerate([0.001, None, 0.25])
    ]
    assert list(samples.apart(samples.together(own, first=0))) == own
