"""The verdict for machines: JSON of a documented format, and JUnit XML that any parser reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from common.log.runlog import Run
from conftest import ROOT

from common.errors import UserError
from common.verdict import files
from common.verdict.evidence import Check, Group, Judgement, Verdict, Words

HOSTILE = "a\x00b\x1b[31m<&>\"']]>\n\ud800\ufffe\u202e"


def run(script: str) -> Run:
    common = {"run": script[:12], "seq": 0}
    env = {"event": "env", "device": "npu:0", "device_name": "Ascend910B2", "simulated": False, "torch_npu": "2.9.0"}
    model = {"event": "model", "model": "timm/tiny", "dtype": "float32", "numerics": "strict", "params": 7}
    perf = {"event": "perf", "batch_size": 1, "status": "ok", "throughput_ips": 42.5, "fingerprint": [1.0]}
    start = {"event": "run_start", "script": script, "utc": "2026-01-01T00:00:00+00:00"}
    end = {"event": "run_end", "records": 4, "records_sha256": "0" * 64}
    return Run([{**common, **record} for record in (start, env, model, perf, end)], log="benchmark.log")


def judgement(*verdicts: Verdict, name: str = "batch 1 status") -> Judgement:
    """One check of what was read, and one of a group for each verdict."""
    checks = [Check(f"{name} {place}", "found", "<= wanted", verdict) for place, verdict in enumerate(verdicts)]
    perf = run("accuracy_run_perf.py")
    group = Group("timm/tiny float32 strict npu:0", [perf], checks, [Words("a remark", "一条说明")])
    return Judgement([Check("accuracy_run_perf.py x", "4", "a whole run", Verdict.PASS), *checks], [group], [perf])


def test_json_holds_the_verdict_its_checks_and_the_records_figures(tmp_path: Path) -> None:
    files.write_json(tmp_path / "new" / "v.json", judgement(Verdict.PASS, Verdict.FAIL))
    found = json.loads((tmp_path / "new" / "v.json").read_text())
    assert (found["format"], found["verdict"], found["exit_code"], found["error"]) == (1, "FAIL", 1, None)
    assert found["checks"][2] == {"name": "batch 1 status 1", "value": "found", "bound": "<= wanted", "verdict": "FAIL"}
    assert found["remarks"] == ["a remark"]
    assert found["runs"][0]["records_sha256"] == "0" * 64
    group = found["groups"][0]
    assert (group["verdict"], group["model"], group["device"]) == ("FAIL", "timm/tiny", "npu:0")
    assert group["perf"] == [{"batch_size": 1, "status": "ok", "throughput_ips": 42.5}]
    assert group["simulated"] is False
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["v.json"]


def test_nothing_that_was_checked_is_no_pass() -> None:
    found = files.as_json(Judgement([], error="log.txt can't be read"))
    assert (found["verdict"], found["exit_code"]) == ("CANNOT JUDGE", 2)
    assert found["error"] == "log.txt can't be read"


@pytest.mark.parametrize("page", ["docs/verdict.md", "docs/verdict.zh-CN.md"])
def test_every_key_is_documented(page: str) -> None:
    documented = (ROOT / page).read_text(encoding="utf-8").split("--json", 1)[1]
    found = files.as_json(judgement(Verdict.PASS))
    keys = {*found, *found["checks"][0], *found["runs"][0], *found["groups"][0]}
    assert [key for key in sorted(keys) if f"`{key}`" not in documented] == []
    assert re.search(rf"`format`[^\n]*{files.FORMAT}", documented)


@pytest.mark.parametrize(
    ("verdict", "elements"), [(Verdict.PASS, []), (Verdict.FAIL, ["failure"]), (Verdict.CANNOT_JUDGE, ["error"])]
)
def test_junit_has_a_case_for_each_check(verdict: Verdict, elements: list[str], tmp_path: Path) -> None:
    files.write_junit(tmp_path / "v.xml", judgement(Verdict.PASS, verdict))
    root = ElementTree.parse(tmp_path / "v.xml").getroot()
    cases = root.findall("./testsuite/testcase")
    assert [case.get("name") for case in cases] == [
        "accuracy_run_perf.py x",
        "batch 1 status 0",
        "batch 1 status 1",
    ]
    assert [element.tag for element in cases[2]] == elements
    assert root.get("tests") == "3"
    assert root.get("failures") == str(elements.count("failure"))
    assert root.get("errors") == str(elements.count("error"))
    assert [suite.get("tests") for suite in root] == ["1", "2"]
    for element in cases[2]:
        assert element.get("message") == "found, wanted: <= wanted"


def test_junit_is_xml_whatever_a_name_holds(tmp_path: Path) -> None:
    files.write_junit(tmp_path / "v.xml", judgement(Verdict.FAIL, name=HOSTILE))
    text = (tmp_path / "v.xml").read_bytes().decode()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\u202e]", text)
    case = ElementTree.fromstring(text).findall("./testsuite/testcase")[1]
    assert case.get("name") == "a\\x00b\\x1b[31m<&>\"']]>\\n\\ud800\\ufffe\\u202e 0"


def test_a_folder_in_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "v.json").mkdir()
    with pytest.raises(UserError, match=r"v\.json can't be written"):
        files.write_json(tmp_path / "v.json", judgement(Verdict.PASS))
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]
