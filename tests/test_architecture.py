"""The architecture: four scripts, one package of wings, imports that run one way between them, and light wings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = {"inference.py", "accuracy_run.py", "accuracy_run_perf.py", "check_accuracy_run_perf.py"}

# What each wing may import beside itself: the arrows of the map in CONTRIBUTING.
LIGHT = {"errors": set(), "stand_ins": set(), "log": {"errors"}, "cli": {"errors", "log"}}
LIGHT |= {"verdict": {"errors", "log", "cli"}, "report": {"errors", "log", "cli", "verdict"}}
LIGHT |= {"publish": {*LIGHT["report"], "report"}}
RUN = {"errors", "stand_ins", "log", "cli", "device"}
ARROWS = {
    **LIGHT,
    "device": RUN - {"device"},
    "images": RUN,
    "encoder": RUN,
    "session": {*RUN, "encoder"},
    "features": {*RUN, "encoder", "images", "session"},
    "accuracy": {*RUN, "encoder", "images", "session", "features"},
    "task": {*RUN, "encoder"},
    "performance": {*RUN, "encoder", "images", "session", "features", "accuracy"},
}
# What costs a start: only the wings that compute import it.
HEAVY = {"torch", "numpy", "PIL", "timm", "transformers", "safetensors", "modelscope", "huggingface_hub", "tqdm"}


def wing_of(path: Path) -> str:
    """`log` for common/log/formulas.py, `session` for common/session.py."""
    return path.relative_to(ROOT / "common").with_suffix("").parts[0]


def imports_of(code: str) -> Iterator[str]:
    """Every module that a piece of code imports, at its top or inside a function; names of packages' modules too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = [path for path in (ROOT / "common").rglob("*.py") if path != ROOT / "common" / "__init__.py"]
SOURCES = {path: path.read_text(encoding="utf-8") for path in MODULES}


def faults_of(path: Path, code: str) -> list[str]:
    """The imports of a module that its wing may not have."""
    wing = wing_of(path)
    allowed = ARROWS[wing] | {wing}
    wrong = []
    for name in imports_of(code):
        parts = name.split(".")
        foreign = parts[0] == "common" and parts[1] not in allowed
        if foreign or name in SCRIPTS or (wing in LIGHT and parts[0] in HEAVY):
            wrong.append(name)
    return wrong


def test_the_top_level_has_the_four_scripts_alone() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == SCRIPTS


def test_every_wing_has_its_arrows() -> None:
    assert {wing_of(path) for path in MODULES} == set(ARROWS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_what_its_wing_may(path: Path) -> None:
    assert faults_of(path, SOURCES[path]) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("log/formulas.py", "from common.cli import options"),
        ("log/formulas.py", "def f():\n    import torch.nn"),
        ("verdict/remarks.py", "from common.accuracy.metrics import compare"),
        ("device/devices.py", "from common.encoder import weights"),
        ("report/pages.py", "from common import session"),
    ],
)
def test_an_arrow_against_the_grain_is_found(module: str, code: str) -> None:
    assert len(faults_of(ROOT / "common" / module, code)) == 1


def test_no_import_goes_in_a_circle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    graph = {}
    for name, path in names.items():
        found = set(imports_of(SOURCES[path]))
        graph[name] = {
            other for other in names if other in found or any(each.startswith(f"{other}.") for each in found)
        }
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter({**graph, "common.errors": {"common.session"}}).prepare()
    TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_imports_the_package_and_no_other_script(script: str) -> None:
    """Beside the standard library and, deferred, torch."""
    own = {name.partition(".")[0] for name in imports_of((ROOT / script).read_text(encoding="utf-8"))}
    assert not own & {Path(other).stem for other in SCRIPTS}
    assert own & HEAVY <= {"torch"}
