"""The house: every room is on the map, imports go one way, and no script imports what is heavy or another script."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

SCRIPTS = {"inference", "accuracy_run", "accuracy_run_perf", "check_accuracy_run_perf"}
ROOMS = {path.stem for path in ROOT.glob("*.py")}
HEAVY = {"matplotlib", "numpy", "PIL", "safetensors", "timm", "torch", "tqdm", "transformers"}


def imports_of(code: str) -> set[str]:
    """The rooms that a module imports, at its top or inside a function."""
    nodes = list(ast.walk(ast.parse(code)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return ROOMS & (plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module})


IMPORTS = {room: imports_of((ROOT / f"{room}.py").read_text(encoding="utf-8")) for room in ROOMS}


def test_every_room_is_on_the_map_and_nothing_else_is() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = contributing.partition("| rooms |")[2].partition("\n\n")[0]
    assert SCRIPTS | set(re.findall(r"`(\w+)`", table)) == ROOMS


def test_where_a_change_goes_is_there() -> None:
    """Each `module.name` of the second table, and of the first, is something that the module has."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)\.([\w.]+)`", contributing.partition("## Where a change goes")[2])
    named = [(room, name) for room, name in named if room in ROOMS and name != "py"]
    assert len(named) > 10
    for room, name in named:
        last = name.rpartition(".")[2]
        assert re.search(rf"^ *(def|class) {last}\b|^{last}\b.* = ", (ROOT / f"{room}.py").read_text(), re.MULTILINE), (
            name
        )


def test_no_import_goes_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({**IMPORTS, "runlog": {"options"}}).prepare()


def test_no_script_is_imported_by_another_room() -> None:
    assert [room for room, imports in IMPORTS.items() if imports & SCRIPTS] == []


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_imports_nothing_heavy_until_it_runs(script: str) -> None:
    code = f"import sys, {script}; print(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == ([], "")
