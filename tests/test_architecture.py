"""The architecture: every module is on the map of CONTRIBUTING, imports go one way, and no script is imported."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

SCRIPTS = {"inference", "accuracy_run", "accuracy_run_perf", "check_accuracy_run_perf"}
MODULES = {path.stem for path in ROOT.glob("*.py")}


def imports_of(code: str) -> set[str]:
    """The modules that a piece of code imports, at its top or inside a function."""
    nodes = list(ast.walk(ast.parse(code)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return MODULES & (plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module})


IMPORTS = {module: imports_of((ROOT / f"{module}.py").read_text(encoding="utf-8")) for module in MODULES}


def test_every_module_is_on_the_map_and_nothing_else_is() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = contributing.partition("| modules |")[2].partition("\n\n")[0]
    assert SCRIPTS | set(re.findall(r"`(\w+)`", table)) == MODULES


def test_where_a_change_goes_is_there() -> None:
    """Each `module.name` of the table is something that the module defines."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)\.([\w.]+)`", contributing.partition("## Where a change goes")[2])
    named = [(module, name) for module, name in named if module in MODULES and name != "py"]
    assert len(named) > 10
    for module, name in named:
        last = name.rpartition(".")[2]
        definition = rf"^ *(def|class) {last}\b|^{last}\b.* = "
        assert re.search(definition, (ROOT / f"{module}.py").read_text(encoding="utf-8"), re.MULTILINE), name


def test_no_import_goes_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({**IMPORTS, "runlog": {"options"}}).prepare()


def test_no_script_is_imported_by_another_module() -> None:
    assert [module for module, imports in IMPORTS.items() if imports & SCRIPTS] == []
