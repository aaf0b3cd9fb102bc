"""Logs that earlier versions wrote are judged as their checker judged them, line by line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import ROOT

import check_accuracy_run_perf as checker

LOGS = ROOT / "tests" / "data" / "earlier_logs"
VERDICTS = json.loads((LOGS / "verdicts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("earlier", VERDICTS, ids=lambda earlier: " ".join(earlier["arguments"]))
def test_an_earlier_log_gets_the_same_verdict(
    earlier: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(LOGS)
    code = checker.main([*earlier["arguments"], "--verbose"])
    assert capsys.readouterr().out.splitlines() == earlier["stdout"]
    assert code == earlier["exit_code"]


def test_every_verdict_and_every_log_is_among_them() -> None:
    assert {earlier["exit_code"] for earlier in VERDICTS} == {0, 1, 2}
    named = {argument for earlier in VERDICTS for argument in earlier["arguments"]}
    assert {path.name for path in LOGS.glob("*.log")} - named == {"pass.inference.log"}  # of which there is no verdict
