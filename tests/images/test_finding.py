"""Which images a command line means and what each is called: tables of links, homes, twins and what is passed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Runner
from helpers import logs
from helpers.forks import Forks
from PIL import Image
from safetensors import safe_open

from common.errors import UserError
from common.images import finding, formats
from common.images.decoding import find_samples
from common.log.events import Event
from common.log.writer import NoLog


class Told(NoLog):
    """A log that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[Event] = []

    def line(self, text: str = "") -> None:
        self.lines.append(text)

    def record(self, event: Event) -> None:
        self.events.append(event)


def touch(*names: str) -> None:
    """Files, to be found by their names alone; a last part of `a->b` is a link, which leads to b."""
    for name in names:
        path, arrow, target = name.partition("->")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            Path(path).symlink_to(target)
        else:
            Path(path).touch()


def found(*paths: str) -> list[str]:
    return [sample.name for sample in find_samples([Path(path) for path in paths])]


def passed_over(*paths: str) -> finding.Passed:
    return finding.search([Path(path) for path in paths])[1]


@pytest.fixture(autouse=True)
def _in_a_folder_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ----------------------------------------------------------------------------------------------------------- links
# What is there, and what has to be found in the folder `set`.
LINKS: dict[str, tuple[list[str], list[str]]] = {
    "a link to a folder elsewhere": (["store/b.png", "set/a.png", "set/dogs->../store"], ["a.png", "dogs/b.png"]),
    "a link to a link": (["store/b.png", "one->store", "set/two->../one"], ["two/b.png"]),
    "a chain of folders behind links": (
        ["x/1.png", "y/2.png", "x/more->../y", "set/x->../x"],
        ["x/1.png", "x/more/2.png"],
    ),
    "an absolute link": (["store/b.png", "set/dogs->{here}/store"], ["dogs/b.png"]),
    "one folder by two links is there twice": (
        ["pool/c.png", "set/train->../pool", "set/val->../pool"],
        ["train/c.png", "val/c.png"],
    ),
    "a link to its own folder": (["set/a.png", "set/loop->."], ["a.png"]),
    "a link to the folder above": (["set/in/a.png", "set/in/up->.."], ["in/a.png"]),
    "a link out of the set and back in": (["other/b.png", "other/in->../set", "set/a.png", "set/out->../other"],
                                          ["a.png", "out/b.png"]),
    "two folders that link to each other": (
        ["set/a/1.png", "set/b/2.png", "set/a/to->../b", "set/b/to->../a"],
        ["a/1.png", "a/to/2.png", "b/2.png", "b/to/1.png"],
    ),
    "a link to a file": (["store/b.png", "set/c.png->../store/b.png"], ["c.png"]),
    "a link to a file of another name": (["blobs/0a1b", "set/c.png->../blobs/0a1b"], ["c.png"]),
    "an image that is a link to nowhere": (["set/a.png", "set/b.png->gone"], ["a.png", "b.png"]),
}  # fmt: skip


@pytest.mark.parametrize(("there", "wanted"), LINKS.values(), ids=LINKS)
def test_links_are_followed_and_end(there: list[str], wanted: list[str], tmp_path: Path) -> None:
    touch(*(name.format(here=tmp_path) for name in there))
    assert found("set") == wanted


def test_links_are_followed_as_python_s_own_walk_does() -> None:
    """But for loops, which it follows until the system refuses."""
    touch("s/1.png", "t/u/2.png", "t/u/v/3.png", "set/x/4.png", "set/s->../s", "set/x/t->../../t", "s/more->../t/u")
    walked = [Path(folder, name) for folder, _, names in os.walk("set", followlinks=True) for name in names]
    assert found("set") == [str(path.relative_to("set")) for path in sorted(walked)]


def test_a_loop_is_told() -> None:
    touch("set/a.png", "set/loop->.", "set/deep/up->..")
    assert passed_over("set").back == 2
    assert str(passed_over("set")) == "2 links back to a folder above"


def close(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may list it: not even the superuser, to whom these tests may belong."""
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if Path(path) == Path(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_searched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("set/a.png", "set/closed/b.png", "more/c.png")
    close("set/closed", monkeypatch)
    log = Told()
    samples = find_samples([Path("set"), Path("more")], log)
    assert [sample.name for sample in samples] == ["set/a.png", "more/c.png"]
    assert log.lines == ["warning: the folder set/closed is left out: it can't be searched: Permission denied"]
    (event,) = log.events
    assert event.closed_folders == {"set/closed": "Permission denied"}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the folder set/closed can't be searched: Permission denied"):
        find_samples([Path("set"), Path("more")], log, strict=True)


def test_a_named_folder_that_cannot_be_searched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("set/a.png", "more/c.png")
    close("set", monkeypatch)
    with pytest.raises(UserError, match=r"^set can't be searched: Permission denied"):
        find_samples([Path("more"), Path("set")])


# ----------------------------------------------------------------------------------------------------------- names
# What is given, and what the images are called; `a/` is a folder with 1.png and x/2.png, all others are files.
NAMES: dict[str, tuple[list[str], list[str]]] = {
    "a folder": (["d/a/"], ["1.png", "x/2.png"]),
    "a file": (["d/1.png"], ["1.png"]),
    "files of a folder": (["d/2.png", "d/1.png"], ["2.png", "1.png"]),
    "two folders": (["d/a/", "d/b/"], ["a/1.png", "a/x/2.png", "b/1.png", "b/x/2.png"]),
    "two files of a name": (["d/a/1.png", "d/b/1.png"], ["a/1.png", "b/1.png"]),
    "far apart": (["d/a/b/c/1.png", "d/1.png"], ["a/b/c/1.png", "1.png"]),
    "a folder and a file beside it": (["d/a/", "d/1.png"], ["a/1.png", "a/x/2.png", "1.png"]),
    "by a way around": (["d/a/1.png", "d/a/../b/1.png"], ["a/1.png", "b/1.png"]),
    "a file three times": (["d/1.png"] * 3, ["1.png", "1.png (2)", "1.png (3)"]),
    "a folder twice": (["d/a/", "d/a/"], ["1.png", "x/2.png", "1.png (2)", "x/2.png (2)"]),
    "a folder and a file of it": (["d/a/", "d/a/1.png"], ["1.png", "x/2.png", "1.png (2)"]),
    "a folder and one of its own": (["d/a/", "d/a/x/2.png"], ["1.png", "x/2.png", "x/2.png (2)"]),
    "the number is a name": (["1.png (2)", "1.png", "1.png"], ["1.png (2)", "1.png", "1.png (3)"]),
    "no UTF-8": ([os.fsdecode(b"d/\xff.png"), os.fsdecode(b"d/\xfe.png")], ["\udcff.png", "\udcfe.png"]),
}


@pytest.mark.parametrize(("given", "wanted"), NAMES.values(), ids=NAMES)
def test_a_name_is_the_path_below_what_all_have_in_common(given: list[str], wanted: list[str]) -> None:
    for name in given:
        touch(*([f"{name}1.png", f"{name}x/2.png"] if name.endswith("/") else [name]))
    assert found(*given) == wanted
    assert len(set(wanted)) == len(wanted)


# Folders, and what the names of their images begin with. $HOME is /home/me.
LABELS: dict[str, tuple[list[str], list[str]]] = {
    "one": (["/data/set"], [""]),
    "one home": (["/home/me"], [""]),
    "one twice": (["/home/me/set", "/home/me/set"], ["", ""]),
    "below one": (["/data/set", "/data/set/x"], ["", "x/"]),
    "in a home": (["/home/me/a", "/home/me/b/c"], ["a/", "b/c/"]),
    "a home and a folder of it": (["/home/me", "/home/me/a"], ["", "a/"]),
    "nothing in common": (["/data/set", "/mnt/nas/pics"], ["set/", "pics/"]),
    "nothing in common but a name": (["/data/set", "/mnt/set", "/data/set"], ["set/", "set (2)/", "set/"]),
    "a home and elsewhere": (["/home/me/my/pics", "/data/set"], ["pics/", "set/"]),
    "the home itself": (["/data/set", "/home/me"], ["set/", "~/"]),
    "two homes": (["/home/you", "/home/me"], ["~/", "~ (2)/"]),
    "in two homes": (["/home/you/pics", "/home/me/pics"], ["pics/", "pics (2)/"]),
    "two homes of macOS": (["/Users/you/pics", "/Users/me/pics/x"], ["pics/", "x/"]),
    "two homes of a mount": (["/nfs/home/you/a", "/nfs/home/me/b"], ["a/", "b/"]),
    "all homes": (["/home", "/home/me/a"], ["home/", "a/"]),
    "the superuser's": (["/root/a", "/opt/b"], ["a/", "b/"]),
    "a class that is named home": (["/data/big/places/home/a", "/data/big/places/shop"], ["home/a/", "shop/"]),
    "the root": (["/", "/data"], ["", "data/"]),
}


@pytest.mark.parametrize(("folders", "wanted"), LABELS.values(), ids=LABELS)
def test_no_name_says_where_a_home_is(folders: list[str], wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    labels = finding.labels_of([Path(folder) for folder in folders])
    assert labels == wanted
    assert not {part for label in labels for part in label.split("/")} & {"me", "you", "nfs", "root"}


@pytest.mark.parametrize("home", ["", "/", "nowhere"])
def test_a_home_that_is_none_hides_nothing(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert finding.labels_of([Path("/data/a/x"), Path("/data/b")]) == ["a/x/", "b/"]


def test_relative_and_absolute_paths_give_the_same_names(tmp_path: Path) -> None:
    touch("train/1.png", "val/1.png")
    relative, absolute = found("train", "val/1.png"), found(f"{tmp_path}/train", f"{tmp_path}/val/1.png")
    assert relative == absolute == found("./train/", f"{tmp_path}/train/../val/1.png") == ["train/1.png", "val/1.png"]


def test_names_do_not_depend_on_what_else_is_in_the_folders() -> None:
    touch("train/1.png", "val/1.png")
    before = found("train", "val")
    touch("train/2.png", "val/x/1.png")
    assert set(before) < set(found("train", "val"))


# ------------------------------------------------------------------------------------------------- what is not read
# What is in a folder beside one image, and what is said of it.
UNREAD: dict[str, tuple[list[str], str]] = {
    "a phone's photos": (["1.heic", "2.HEIC", "3.heif"],
                         "warning: not read: 3 files: 2 .heic, 1 .heif; pip install pillow-heif reads .heif"),
    "raw photos": (["1.dng", "2.dng", "3.cr2"], "warning: not read: 3 files: 2 .dng, 1 .cr2"),
    "no extension": (["ILSVRC_1", "ILSVRC_2"], "warning: not read: 2 files: 2 without extension"),
    "videos": (["1.mp4", "2.mpg", "3.mpeg", "4.mpg"], "warning: not read: 4 files: 2 .mpg, 1 .mp4, 1 .mpeg"),
    "HDF5": (["1.h5", "2.hdf"], "warning: not read: 2 files: 1 .h5, 1 .hdf"),
    "weather": (["1.grib", "2.bufr", "3.wmf"], "warning: not read: 3 files: 1 .bufr, 1 .grib, 1 .wmf"),
    "archives": (["000.tar", "001.tar", "x.zip"], "warning: not read: 3 files: 2 .tar, 1 .zip"),
    "vectors": (["1.svg", "2.pdf"], "warning: not read: 2 files: 1 .pdf, 1 .svg"),
    "half a download": (["1.jpg.part", "2.jpg.crdownload"],
                        "warning: not read: 2 files: 1 .crdownload, 1 .part"),
    "what stands beside images": (["1.txt", "2.txt", "labels.json"], "not read: 3 files: 2 .txt, 1 .json"),
    "a text and a photo": (["1.txt", "1.dng"], "warning: not read: 2 files: 1 .dng, 1 .txt"),
    "hidden images": ([".1.png", ".x/1.png", ".DS_Store"], "warning: not read: 1 file: 1 hidden; 1 hidden folder"),
    "folders that have gone": (["dogs->gone", "cats->gone"], "warning: not read: 2 files: 2 links to nowhere"),
    "a sentence": (["Mr. Smith at the sea"], "warning: not read: 1 file: 1 without extension"),
    "numbers": ([f"scan.{number:03}" for number in range(20)],
                "warning: not read: 20 files: 1 .000, 1 .001, 1 .002, 1 .003, 1 .004, 1 .005, 1 .006, 1 .007, "
                "12 others"),
    "nothing": ([], ""),
}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["", "sorted otherwise"])
def _in_any_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system gives entries in its own order."""
    scandir = os.scandir

    class Sorted:
        def __init__(self, path: Path) -> None:
            with scandir(path) as scanned:
                self.entries = sorted(scanned, key=lambda entry: entry.name, reverse=request.param)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Sorted)


@pytest.mark.usefixtures("_in_any_order")
@pytest.mark.parametrize(("names", "told"), UNREAD.values(), ids=UNREAD)
def test_what_is_no_image_by_its_name_is_counted_in_one_line(
    names: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "decoded_suffixes", without_plugins)
    touch("set/a.png", *(f"set/in/{name}" for name in names))
    log = Told()
    assert [sample.name for sample in find_samples([Path("set")], log)] == ["a.png"]
    assert log.lines == ([told] if told else [])
    assert len(log.events) == bool(told)
    for event in log.events:
        assert sum(event.kinds.values()) == event.files  # type: ignore[attr-defined]


def without_plugins() -> set[str]:
    """Whatever is installed here."""
    return formats_of_pillow - {".heic", ".heif", ".hif", ".jxl", ".jls"}


formats_of_pillow = set(formats.decoded_suffixes())


def test_every_format_that_pillow_decodes_is_read() -> None:
    """By its own list, without what it only writes, only recognises or runs."""
    every = set(Image.registered_extensions())
    assert {".jpg", ".png", ".webp", ".tif", ".mpo", ".jp2", ".pfm", ".fits", ".tga", ".dds"} <= formats_of_pillow
    assert every - formats_of_pillow <= {
        *(".pdf", ".palm", ".h5", ".hdf", ".grib", ".bufr", ".mpg", ".mpeg", ".wmf", ".emf"),
        *(".jxl", ".jls"),
    }


@pytest.mark.parametrize("names", [["1.heic", "2.heic"], ["README"]])
def test_a_folder_without_images_says_what_is_there(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "decoded_suffixes", without_plugins)
    touch(*(f"set/{name}" for name in names))
    with pytest.raises(UserError, match=rf"^no images in the folder set .*not read: {len(names)} file"):
        find_samples([Path("set")])


# -------------------------------------------------------------------------------------------------------- plug-ins
PLUGIN = """
from PIL import Image, PngImagePlugin
def register_heif_opener():
    Image.register_open("HEIF", PngImagePlugin.PngImageFile, lambda prefix: prefix.startswith(b"\\x89PNG"))
    Image.register_extensions("HEIF", [".heic"])
"""
PLUGINS = {
    "one that is registered by a call": ("pillow_heif", PLUGIN, ["a.heic", "b.png"], ""),
    "one that registers itself": (
        "pillow_jxl",
        PLUGIN.replace("heic", "jxl") + "register_heif_opener()",
        ["a.jxl", "b.png"],
        "",
    ),
    "one that lacks its library": ("pillow_heif", "raise ImportError('libheif.so.1')", ["b.png"], "libheif.so.1"),
    "one of another version": ("pillow_heif", "", ["b.png"], "register_heif_opener"),
}


@pytest.mark.parametrize(("module", "code", "wanted", "told"), PLUGINS.values(), ids=PLUGINS)
def test_a_plug_in_of_pillow_is_used_where_it_is_installed(
    module: str, code: str, wanted: list[str], told: str, tmp_path: Path
) -> None:
    """In a process of its own: what is registered stays."""
    Path("lib").mkdir()
    Path(f"lib/{module}.py").write_text(code)
    for name in ("a.heic", "a.jxl", "b.png"):
        Path("set").mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), "red").save(f"set/{name}", "PNG")
    script = """
from pathlib import Path
from common.images.decoding import find_samples
class Log:
    line = staticmethod(lambda text: print("said:", text))
    record = staticmethod(lambda event: None)
for sample in find_samples([Path("set")], Log):
    print(sample.name, sample.load().getpixel((0, 0)))
"""
    path = os.pathsep.join([str(tmp_path / "lib"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("said: ")] == [f"{name} (255, 0, 0)" for name in wanted]
    warned = [line for line in lines if f"{module} is installed and can't be used" in line]
    assert bool(warned) is bool(told)
    assert told in "".join(warned)


# ------------------------------------------------------------------------------------------------------- the scripts
def image(name: str, color: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), color).save(name)


def two_folders_of_the_same_names() -> None:
    for place, color in (("train", "red"), ("val", "blue")):
        image(f"{place}/1.png", color)
        image(f"store-{place}/3.png", color)
        Path(f"{place}/2.png").write_bytes(b"damaged")
        Path(place, "more").symlink_to(f"../store-{place}")
        touch(f"{place}/4.heic", f"{place}/5")


GOOD = ["train/1.png", "train/more/3.png", "val/1.png", "val/more/3.png"]
BAD = ["train/2.png", "val/2.png"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("output", ["features.safetensors", "features.npy", None])
def test_the_same_names_in_two_folders_stay_apart_everywhere(
    output: str | None, workers: int, run_script: Runner, tiny_timm: Path, tmp_path: Path
) -> None:
    """In the records, the counts of what was left out, and the feature file."""
    two_folders_of_the_same_names()
    arguments = ["--image", "train", "val", "--batch-size", 8, "--workers", workers]
    arguments += ["--output", output] if output else []
    finished = run_script("inference.py", "--model", tiny_timm, "--device", "cpu", *arguments)
    assert finished.code == 0, finished.stderr
    run = logs.read_run(Path("logs/inference.log"))
    assert run.problems == []
    assert [record["image"] for record in run.events("inference")] == GOOD
    assert [record["image"] for record in run.events("skipped")] == BAD
    assert "Skipped images: 2 of 6" in finished.stdout
    assert "warning: not read: 4 files: 2 .heic, 2 without extension" in finished.stdout
    (unread,) = run.events("unread")
    assert (unread["files"], unread["kinds"]) == (4, {".heic": 2, "without extension": 2})
    assert str(tmp_path) not in Path("logs/inference.log").read_text()
    if output == "features.npy":
        assert json.loads(Path("features.json").read_text())["images"] == GOOD
    elif output:
        with safe_open(output, "np") as opened:
            assert json.loads(opened.metadata()["images"]) == GOOD


def test_they_stay_apart_when_a_run_is_resumed(
    run_script: Runner, forks: Forks, tiny_timm: Path, tmp_path: Path
) -> None:
    """The parts of a run that was cut are read again: one for each image, good or bad."""
    two_folders_of_the_same_names()
    arguments = ("--model", tiny_timm, "--device", "cpu", "--image", "train", "val", "--workers", 0)
    arguments = (*arguments, "--output", "features.safetensors")
    Path("cut.py").write_text(
        "import os, runpy, shutil\nshutil.rmtree = lambda folder, **k: k or os._exit(9)\n"
        "runpy.run_path(os.environ['SCRIPT'], run_name='__main__')\n"
    )
    cut = forks.run(tmp_path / "cut.py", *arguments, cwd=tmp_path, path=(ROOT,), SCRIPT=ROOT / "inference.py")
    assert cut.code == 9
    whole = Path("features.safetensors").read_bytes()
    Path("features.safetensors").unlink()
    finished = run_script("inference.py", *arguments, "--resume")
    assert finished.code == 0, finished.stderr
    assert "Resumed: 6 of 6 parts are there" in finished.stdout
    run = logs.read_run(Path("logs/inference.log"))
    assert [record["image"] for record in run.events("inference")] == GOOD
    assert [record["image"] for record in run.events("skipped")] == BAD
    assert Path("features.safetensors").read_bytes() == whole


@pytest.mark.parametrize("script", ["accuracy_run.py", "accuracy_run_perf.py"])
def test_the_other_scripts_say_what_they_did_not_read(script: str, run_script: Runner, tiny_timm: Path) -> None:
    two_folders_of_the_same_names()
    few = ["--samples", 4] if script == "accuracy_run.py" else ["--batch-sizes", 1, "--iterations", 2]
    finished = run_script(script, "--model", tiny_timm, "--device", "cpu", "--image", "train", "val", *few)
    assert finished.code == 0, finished.stderr
    assert "warning: not read: 4 files: 2 .heic, 2 without extension" in finished.stdout
    (log,) = (path for path in Path("logs").iterdir() if path.name in ("accuracy.log", "benchmark.log"))
    run = logs.read_run(log)
    assert len(run.events("unread")) == 1
    if script == "accuracy_run.py":
        assert {record["image"] for record in run.events("sample")} == set(GOOD)
