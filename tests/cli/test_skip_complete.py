"""--skip-complete: what a whole log of the same command and code proves is not run again; anything else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.logs import change, edited

import inference
from common.log import writer

Run = Callable[..., bool]


@pytest.fixture
def run(tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Whether inference.py ran, by its log's being another one."""
    monkeypatch.chdir(tmp_path)

    def once(*arguments: str) -> bool:
        log = tmp_path / "logs" / "inference.log"
        before = log.read_bytes() if log.is_file() else b""
        assert inference.main(["--model", str(tiny_vit), "--device", "cpu", *arguments]) == 0
        return log.read_bytes() != before

    return once


def test_a_complete_log_of_the_same_command_is_left(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--skip-complete")
    assert not run("--skip-complete")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "logs/inference.log is complete, of this command and code: skipped"
    )
    assert not run("--log-dir", "logs", "--skip-complete")
    assert not run("--skip-complete", "--log-dir=logs")
    assert run()
    assert not run("--skip-complete")


def test_an_output_that_is_there_since_is_the_same_command(run: Run) -> None:
    assert run("--output", "out.safetensors", "--skip-complete")
    assert not run("--output", "out.safetensors", "--skip-complete")


def test_another_command_runs(run: Run) -> None:
    assert run()
    assert run("--seed", "1", "--skip-complete")
    assert run("--seed", "2", "--skip-complete")
    assert run("--skip-complete")


def test_other_code_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run()
    monkeypatch.setattr(writer, "code_sha256", lambda: "0" * 64)
    assert run("--skip-complete")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_log_that_was_cut_is_made_again(share: float, run: Run, tmp_path: Path) -> None:
    assert run()
    log = tmp_path / "logs" / "inference.log"
    content = log.read_bytes()
    log.write_bytes(content[: int(share * len(content))])
    assert run("--skip-complete")


def test_a_run_that_ended_with_an_error_is_made_again(run: Run, tmp_path: Path) -> None:
    assert run()
    log = tmp_path / "logs" / "inference.log"
    edited(log, log, change("run_end", "status", "error"), signed=False)
    assert run("--skip-complete")
