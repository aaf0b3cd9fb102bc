"""A published port: whole or not there, all of it from the records, and it runs where it is cloned."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from helpers.forks import Forks, needs_simulated_npu
from helpers.logs import Records, change, edited, find, read_records
from helpers.npu_runs import ON_NPU, VIT
from helpers.ports import STEMS, Publish, files_in, logs_in, publisher, read

import check_accuracy_run_perf as checker
from common.errors import UserError
from common.log.writer import code_files
from common.publish import port, tree

BOTH = ("README.md", "README.en.md")
PERF = ("accuracy_run_perf.py", ("--batch-sizes", "1", "--iterations", "5", "--warmup", "1", "--no-cpu-baseline"))
CHECKER = "check_accuracy_run_perf.py"
ALLOWED = ("--allow-random-weights", "--require-device", "npu")


@pytest.fixture
def publish(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    return publisher(tmp_path, capsys, monkeypatch)


# ------------------------------------------------------------------------------------------------------- the folder
def test_the_folder_has_what_a_port_needs(publish: Publish, tmp_path: Path) -> None:
    done = publish(logs_in(tmp_path / "logs"))
    assert (done.code, done.verdict) == (0, "OVERALL: PASS"), done.stdout
    folder = tmp_path / "port"
    beside = {"LICENSE", "requirements.txt", "constraints.txt", "defaults.json", "verdict.json", "scoring.json"}
    beside |= {".gitignore", ".gitattributes", ".markdownlint.json", "screenshot.png", "screenshot.txt"}
    beside |= {*BOTH, "SUBMISSION.md", "assets/latency.png", "logs/env_check.log", *(f"logs/{s}.log" for s in STEMS)}
    assert files_in(folder) == beside | code_files().keys()
    for name, content in code_files().items():
        assert (folder / name).read_bytes() == content
    for stem in STEMS:
        assert (folder / "logs" / f"{stem}.log").read_bytes() == (tmp_path / "logs" / f"{stem}.log").read_bytes()
    assert json.loads(read(folder, "verdict.json"))["verdict"] == "PASS"
    listed = re.findall(r"^```text\n(\.gitattributes\n.*?)^```", read(folder), re.MULTILINE | re.DOTALL)
    assert set(listed[0].split()) == {name for name in files_in(folder) if "/" not in name or name in beside} | {
        "common/"
    }


@pytest.mark.parametrize(
    ("flags", "first", "second"),
    [((), "简介", "Model"), (("--language", "zh"), "简介", "Model"), (("--language", "en"), "Model", "简介")],
)
def test_the_language_of_the_first_page(
    flags: tuple[str, ...], first: str, second: str, publish: Publish, tmp_path: Path
) -> None:
    publish(logs_in(tmp_path / "logs"), *flags)
    other = "README.zh-CN.md" if first == "Model" else "README.en.md"
    for name, heading, twin in (("README.md", first, other), (other, second, "README.md")):
        page = read(tmp_path / "port", name)
        assert f"\n## {heading}\n" in page
        assert f"]({twin})" in page
    assert ("# Submission" in read(tmp_path / "port", "SUBMISSION.md")) == (first == "Model")


def test_the_submission_is_three_lines(publish: Publish, tmp_path: Path) -> None:
    publish(logs_in(tmp_path / "logs"), "--language", "en")
    lines = [line for line in read(tmp_path / "port", "SUBMISSION.md").splitlines() if line.startswith("- ")]
    assert len(lines) == 3
    assert lines[0].startswith("- demo runs on CPU")
    assert "verdict PASS" in lines[1]
    assert "`python check_accuracy_run_perf.py`" in lines[2]


def test_the_constraints_are_the_versions_that_were_measured(publish: Publish, tmp_path: Path) -> None:
    edit = change("env", "torch", "2.9.0+cpu")
    publish(logs_in(tmp_path / "logs", accuracy=edit, benchmark=edit, inference=edit))
    env = find(read_records(tmp_path / "logs" / "accuracy.log"), "env")
    lines = read(tmp_path / "port", "constraints.txt").splitlines()
    assert "torch==2.9.0" in lines
    assert f"timm=={env['timm']}" in lines
    assert f"numpy=={env['numpy']}" in lines
    assert not [line for line in lines if "npu" in line]


@pytest.mark.parametrize("stem", STEMS)
def test_other_code_than_made_the_logs_is_refused(stem: str, publish: Publish, tmp_path: Path) -> None:
    logs = logs_in(tmp_path / "logs")
    for each in STEMS if stem != "inference" else (stem,):
        path = logs / f"{each}.log"
        edited(path, path, change("run_start", "code_sha256", "0" * 64))
    with pytest.raises(UserError, match=r"\.log was made by other code \(code_sha256 00000000\)"):
        publish(logs)
    assert not (tmp_path / "port").exists()


def test_several_encoders_are_refused(publish: Publish, tmp_path: Path) -> None:
    edit = change("model", "dtype", "float16")

    def renamed(records: Records) -> None:
        edit(records)
        for record in records:
            record["run"] = f"x{record['run'][1:]}"

    logs = logs_in(tmp_path / "logs")
    edited(logs / "accuracy.log", logs / "more.log", renamed)
    both = (logs / "accuracy.log").read_text() + (logs / "more.log").read_text()
    (logs / "accuracy.log").write_text(both)
    with pytest.raises(UserError, match="one encoder, dtype, numerics and device; these are of demo float32"):
        publish(logs)


@pytest.mark.parametrize("only", ["accuracy", "perf"])
def test_half_of_the_evidence_makes_no_port(only: str, publish: Publish, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"needs accuracy and performance: --only {only} judges one"):
        publish(logs_in(tmp_path / "logs"), "--only", only)
    assert publish(logs_in(tmp_path / "logs"), "--only", "accuracy", "--threshold", "1e-9").code == 1
    assert "only accuracy is judged" in read(tmp_path / "port", "README_FAIL_REASON.en.md")


def test_another_encoders_inference_does_not_come_along(publish: Publish, tmp_path: Path) -> None:
    publish(logs_in(tmp_path / "logs", inference=change("model", "model", "another")))
    assert "logs/inference.log" not in files_in(tmp_path / "port")
    assert "python inference.py --device cpu\n" in read(tmp_path / "port")


@pytest.mark.parametrize(
    ("source", "model", "hub", "said", "ignored"),
    [
        ("my_vit", "my_vit", None, "lay their folder beside the scripts, under the name my_vit", True),
        ("common", "common", None, "under the name common", False),
        ("w.safetensors", "timm/vit", "modelscope", "Its weights are w.safetensors, from no hub", False),
        ("timm/vit", "timm/vit", "modelscope", None, False),
        ("demo", "demo", None, None, False),
    ],
)
def test_weights_from_no_hub_are_asked_for(
    source: str, model: str, hub: str | None, said: str | None, ignored: bool, publish: Publish, tmp_path: Path
) -> None:
    def edit(records: Records) -> None:
        record = find(records, "model")
        record.update(weights_source=source, model=model)
        if hub:
            record["hub"] = hub

    publish(logs_in(tmp_path / "logs", accuracy=edit, benchmark=edit, inference=edit))
    page = " ".join(read(tmp_path / "port", "README.en.md").split())
    assert (said or "the scripts run") in page.replace("The", "the")
    assert ("from no hub" in page) == (said is not None)
    assert (f"/{model}/" in read(tmp_path / "port", ".gitignore").splitlines()) == ignored
    assert json.loads(read(tmp_path / "port", "scoring.json"))["local_weight_used"] == (said is not None)


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "port" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "port" / "sub")
    for place in (".", "..", str(tmp_path)):
        with pytest.raises(UserError, match="is the current folder, or around it"):
            checker.main(["--publish", place, "--force"])


def test_standard_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = logs_in(tmp_path / "logs")
    text = (logs / "accuracy.log").read_bytes() + (logs / "benchmark.log").read_bytes()
    (tmp_path / "log.txt").write_bytes(text)
    with open(tmp_path / "log.txt") as file, pytest.raises(UserError, match="standard input can't be published"):
        monkeypatch.setattr(sys, "stdin", file)
        checker.main(["-", "--publish", str(tmp_path / "port")])


def test_logs_of_other_names_are_named_in_the_commands(tmp_path: Path, publish: Publish) -> None:
    logs = logs_in(tmp_path / "logs")
    joined = tmp_path / "a b" / "all (1).txt"
    joined.parent.mkdir()
    joined.write_bytes((logs / "accuracy.log").read_bytes() + (logs / "benchmark.log").read_bytes())
    assert publish(joined, "--threshold", "0.5", "--compare", str(logs / "benchmark.log")).code == 2  # beside itself
    assert publish(joined, "--threshold", "0.5", "--force").code == 0
    assert "\npython check_accuracy_run_perf.py logs/all__1_.txt --threshold 0.5\n" in read(tmp_path / "port")
    done = subprocess.run(
        [sys.executable, "check_accuracy_run_perf.py", "logs/all__1_.txt", "--threshold", "0.5"], cwd=tmp_path / "port"
    )
    assert done.returncode == 0


def test_a_log_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    from common.log.reader import read_runs

    logs = logs_in(tmp_path / "logs")
    path = logs / "accuracy.log"
    runs = list(read_runs(path.read_bytes().splitlines()))
    sources = port.Sources([str(path)], [], [], [])
    assert port.placed_logs(sources, runs)[1] == ["logs/accuracy.log"]
    edited(path, path, change("accuracy", "samples", 99))
    with pytest.raises(UserError, match="changed while it was published"):
        port.placed_logs(sources, runs)


# ------------------------------------------------------------------------------------------- whole, or as it was
def test_a_folder_that_is_there_is_replaced_by_force_alone(publish: Publish, tmp_path: Path) -> None:
    logs, folder = logs_in(tmp_path / "logs"), tmp_path / "port"
    assert publish(logs).code == 0
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("kept")
    (folder / "more.txt").write_text("goes")
    before = files_in(folder)
    with pytest.raises(UserError, match="is there already; --force"):
        publish(logs)
    assert files_in(folder) == before
    assert publish(logs, "--force", "--language", "en").code == 0
    assert files_in(folder) >= {".git/HEAD", "README.zh-CN.md"}
    assert not files_in(folder) & {"more.txt", "README.en.md"}
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "port"}


@pytest.mark.parametrize("there", [(), (".git/HEAD",), (".git/HEAD", "README.md", ".gitattributes")])
def test_the_clone_of_a_new_repository_is_filled(there: tuple[str, ...], publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "port").mkdir()
    for name in there:
        (tmp_path / "port" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "port" / name).write_text("x")
    flags = ("--force",) if len(there) > 1 else ()
    assert publish(logs_in(tmp_path / "logs"), *flags).code == 0
    assert (".git/HEAD" in files_in(tmp_path / "port")) == bool(there)


@pytest.mark.parametrize("name", ["notes.txt", "verdict.json", "src/main.py"])
def test_a_folder_of_somebody_else_is_never_replaced(name: str, publish: Publish, tmp_path: Path) -> None:
    path = tmp_path / "port" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    (tmp_path / "port" / ".git").mkdir()
    with pytest.raises(UserError, match="not of its making"):
        publish(logs_in(tmp_path / "logs"), "--force")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("place", [ROOT, ROOT.parent, ROOT / "common" / "port"])
def test_the_scripts_are_never_replaced(place: Path) -> None:
    with pytest.raises(UserError, match="the scripts that run are there"):
        checker.main(["--publish", str(place), "--force"])


def test_a_file_is_no_folder(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "port").write_text("x")
    with pytest.raises(UserError, match="is no folder"):
        publish(logs_in(tmp_path / "logs"), "--force")


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["write_bytes", "rename"])
def test_what_is_cut_leaves_the_folder_as_it_was(
    at: str, raised: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "port"
    tree.write(folder, {"a/b.txt": b"old", "c.txt": b"old"})
    (folder / ".git").mkdir()
    before, plain = files_in(folder), getattr(Path, at)

    def fails(path: Path, *arguments: Any) -> Any:
        if path.name in ("c.txt", ".port.new"):
            raise raised
        return plain(path, *arguments)

    monkeypatch.setattr(Path, at, fails)
    with pytest.raises(UserError if isinstance(raised, OSError) else KeyboardInterrupt):
        tree.write(folder, {"a/b.txt": b"new", "c.txt": b"new"})
    assert files_in(folder) == before
    assert (folder / "a/b.txt").read_bytes() == b"old"
    assert (folder / ".git").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["port"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_power_cut_between_the_renames_is_mended(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new, old = tmp_path / "port", tmp_path / ".port.new", tmp_path / ".port.old"
    new.mkdir()
    (new / "a.txt").write_text("new")
    old.mkdir()
    (old / "a.txt").write_text("old")
    ((old if renames == 1 else new) / ".git").mkdir()
    with pytest.raises(UserError, match="not of its making"):
        tree.require_free(folder, force=True)
    assert (folder / "a.txt").read_text() == "new"
    assert (folder / ".git").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["port"]


# ----------------------------------------------------------------------------------------- it runs where it is cloned
def commands_of(page: str) -> list[list[str]]:
    """The commands of a page's blocks, without those that install."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    words = [line.partition("#")[0].split() for line in lines]
    return [command for command in words if command and command[0] == "python"]


def git(folder: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


def check_in(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "check_accuracy_run_perf.py", *arguments], cwd=folder, capture_output=True, text=True
    )
    return done.stdout.splitlines()[-1]


@needs_simulated_npu
def test_a_clone_elsewhere_runs_by_its_own_page(tmp_path: Path, forks: Forks) -> None:
    """No script is given a model there, nor a folder of logs; the simulated NPU is the clone's own."""
    logs, folder, clone = tmp_path / "logs", tmp_path / "port", tmp_path / "elsewhere" / "clone"
    common = (*VIT, *ON_NPU, "--log-dir", logs)
    for script, flags in (("inference.py", ()), ("accuracy_run.py", ("--samples", "1")), PERF):
        done = forks.run(script, *common, *flags, cwd=tmp_path)
        assert done.code == 0, done.stderr
    assert checker.main([str(logs), *ALLOWED, "--publish", str(folder)]) == 0
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "port")
    git(tmp_path, "clone", str(folder), str(clone))
    assert files_in(folder) - {each for each in files_in(folder) if each.startswith(".git/")} <= files_in(clone)

    commands = commands_of(read(clone))
    assert [command[1] for command in commands[:4]] == ["inference.py", "accuracy_run.py", PERF[0], CHECKER]
    assert not any(flag in command for flag in ("--model", "--log-dir", "--weights") for command in commands)
    assert check_in(clone, *commands[3][2:]) == "OVERALL: PASS"
    kept = (clone / "logs" / "accuracy.log").read_bytes()
    for _, script, *arguments in [*commands[:3], *commands[4:]]:
        done = forks.run(clone / script, *arguments, cwd=clone, path=(clone / "tests" / "simulated_npu",))
        assert done.code == 0, done.stderr
    assert (clone / "logs" / "accuracy.log").read_bytes() != kept
    assert (clone / "logs" / "accuracy.prev.log").read_bytes() == kept
    assert check_in(clone, *commands[3][2:]) == "OVERALL: PASS"
    found = forks.run(write(clone / "read.py", block_of(read(clone), "python")), cwd=clone, path=())
    assert found.code == 0, found.stderr


def block_of(page: str, language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
