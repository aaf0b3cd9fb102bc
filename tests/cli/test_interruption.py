"""Interrupted runs, full disks and folders that can't be written: no log that can pass, no half file, one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from conftest import PERF_QUICK, ROOT, Runner
from helpers.forks import Forks

import accuracy_run
import check_accuracy_run_perf as checker
import inference
from common.cli import launch
from common.images import decoding
from common.log import reader, writer
from common.log.events import Skipped

# Where a run is cut: at its first record, while it loads, computes, and writes a file, and at its very last record.
CUTS = ("run_start", "env", "sample", "reference", "run_end")
CUT = """
import os, signal, sys
sys.path.insert(0, os.environ["ROOT"])
import accuracy_run
from common.accuracy import saved_reference
from common.cli import launch
from common.log import reader, writer
from common.log.events import Skipped

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and its children too

where, how = os.environ["CUT_AT"], int(os.environ["SIGNAL"])
record, save_file = writer.RunLog.record, saved_reference.save_file

def cut(log, event):
    if event.event == where:
        os.kill(os.getpid(), how)
    record(log, event)

def save_half(tensors, path, metadata):
    save_file(tensors, path, metadata)
    if where == "reference":
        os.truncate(path, 100)
        os.kill(os.getpid(), how)

writer.RunLog.record, saved_reference.save_file = cut, save_half
launch.run(accuracy_run.main)
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> Path:
    """A folder with the logs of an accuracy and a perf run that pass, and a saved reference."""
    import accuracy_run_perf

    folder = tmp_path_factory.mktemp("complete")
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(folder)]
    saved = ["--save-reference", str(folder / "saved.safetensors")]
    assert accuracy_run.main([*common, "--samples", "1", *saved]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("where", CUTS)
def test_a_run_that_is_cut_leaves_nothing_that_passes_and_loses_nothing(
    where: str, how: signal.Signals, complete: Path, tiny_timm: Path, tmp_path: Path, forks: Forks
) -> None:
    before = {name: (complete / name).read_bytes() for name in ("accuracy.log", "benchmark.log", "saved.safetensors")}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cut.py").write_text(CUT)
    arguments = ["--model", tiny_timm, "--device", "cpu", "--samples", 1, "--log-dir", "."]
    settings = {"ROOT": ROOT, "CUT_AT": where, "SIGNAL": int(how)}
    saving = ("--save-reference", "saved.safetensors")
    finished = forks.run(tmp_path / "cut.py", *arguments, *saving, cwd=tmp_path, **settings)
    assert finished.code == (130 if how == signal.SIGINT else -9)
    assert finished.stderr == ("error: interrupted\n" if how == signal.SIGINT else "")
    assert checker.main([str(tmp_path / name) for name in ("accuracy.log", "benchmark.log")]) == 2
    assert (tmp_path / "accuracy.prev.log").read_bytes() == before["accuracy.log"]
    saved_by_then = where in ("sample", "run_end")
    assert saved_by_then or (tmp_path / "saved.safetensors").read_bytes() == before["saved.safetensors"]
    halves = [path.name for path in tmp_path.glob("*.new")]
    assert halves == (["saved.safetensors.new"] if (where, how) == ("reference", signal.SIGKILL) else [])


# --------------------------------------------------------------------------------------------------- full disks
@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process can grow beyond the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


PHOTOS = ("--image", *[decoding.default_photo()] * 40)
FEATURES = (*PHOTOS, "--workers", "0", "--output")
IN_WORKERS = (*PHOTOS, "--workers", "1", "--batch-size", "16", "--output", "full/f.npy")


@pytest.mark.parametrize(
    ("limit", "script", "option", "named"),
    [
        (0, inference, (), "log can't be written: File too large"),
        (900, inference, (), "inference.log: the log can't be written: File too large"),
        (3000, accuracy_run, ("--samples", "1"), "accuracy.log: the log can't be written: File too large"),
        (30_000, accuracy_run, ("--samples", "1", "--save-reference", "full/r"), "r can't be written"),
        (3500, inference, (*FEATURES, "full/f.safetensors"), "can't be written"),
        (3500, inference, (*FEATURES, "full/f.npy"), "can't be written"),
        (1_000_000, inference, IN_WORKERS, "do not fit in shared memory"),  # a container's is small, and a file too
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line(
    limit: int, script: ModuleType, option: tuple[object, ...], named: str, tiny_timm: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", tiny_timm, "--device", "cpu", *option]
    with pytest.raises(SystemExit) as left, mock.patch.dict(os.environ), full_disk(limit):
        launch.run(lambda: script.main([str(argument) for argument in arguments]))
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert not [path for path in tmp_path.glob("full/*") if path.suffix != ".parts"]
    for log in (tmp_path / "logs").glob("[!e]*.log"):
        assert not holds_a_whole_run(log)


def holds_a_whole_run(log: Path) -> bool:
    try:
        return any(not run.problems for run in reader.read_runs(log.read_bytes().splitlines()))
    except reader.UnreadableRecordError:  # its last line was cut
        return False


def write_a_log(folder: Path) -> None:
    with writer.RunLog(folder / "accuracy.log", "accuracy_run.py", []) as log:
        for number in range(3):
            log.record(Skipped(image=f"{number}.png", reason="of the test"))


@pytest.mark.parametrize("at", range(1, 6))
def test_a_log_that_can_not_be_written_ends_the_run_and_is_incomplete(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of its five records is the first that the disk has no room for."""
    write, calls = writer.RunLog._write, iter(range(1, 100))

    def fill_up(log: writer.RunLog, text: str, copy: object) -> None:
        if next(calls) >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(log, text, None)

    monkeypatch.setattr(writer.RunLog, "_write", fill_up)
    with pytest.raises(SystemExit) as left:
        launch.run(lambda: write_a_log(tmp_path) or 0)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert not holds_a_whole_run(tmp_path / "accuracy.log")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("script", ["accuracy_run.py", "check_accuracy_run_perf.py"])
def test_standard_output_that_is_full_is_one_line(script: str, complete: Path, tmp_path: Path) -> None:
    arguments: tuple[object, ...] = (complete / "accuracy.log", complete / "benchmark.log")
    if script == "accuracy_run.py":
        arguments = ("--device", "cpu")
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line


def test_a_log_folder_that_is_read_only_is_one_line(run_script: Runner, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o500)
    folder = "/proc" if os.access(tmp_path / "logs", os.W_OK) else "logs"  # the first is read-only to everyone
    finished = run_script("accuracy_run.py", "--log-dir", folder)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: the log {folder}/accuracy.log can't be written: ")
