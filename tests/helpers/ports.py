"""Publishing kept logs, as if this code had made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Finished
from helpers.logs import Edit, Records, edited, find

import check_accuracy_run_perf as checker
from common.log.writer import code_sha256

EARLIER = ROOT / "tests" / "data" / "earlier_logs"
STEMS = ("accuracy", "benchmark", "inference")

Publish = Callable[..., Finished]


def nothing(records: Records) -> None:
    pass


def made_now(edit: Edit) -> Edit:
    """The edit, and the code that made the log is this one."""

    def both(records: Records) -> None:
        edit(records)
        find(records, "run_start")["code_sha256"] = code_sha256()

    return both


def logs_in(folder: Path, **edits: Edit) -> Path:
    """The logs of one model on the CPU, kept from an earlier version, after an edit of each by its stem."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in STEMS:
        edited(EARLIER / f"pass.{stem}.log", folder / f"{stem}.log", made_now(edits.get(stem, nothing)))
    (folder / "env_check.log").write_text("python  3.11\n")
    return folder


def publisher(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Run the checker on the logs of a folder with --publish port, its plots left out."""
    from common.publish import screenshot
    from common.report import plots

    def run(logs: Path, *flags: str, drawn: bool = False) -> Finished:
        monkeypatch.setattr(plots, "draw_all", lambda group: {"latency": b""})
        if not drawn:
            monkeypatch.setattr(screenshot, "draw", lambda lines: b"")
        code = checker.main([str(logs), "--publish", str(tmp_path / "port"), *flags])
        printed = capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    return run


def read(folder: Path, name: str = "README.md") -> str:
    return (folder / name).read_text(encoding="utf-8")


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
