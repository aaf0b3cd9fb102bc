"""Build the fake CANN for an environment in which torch and torch_npu are installed.

    python build.py PYTHON [FOLDER]      PYTHON is that environment's interpreter
    source FOLDER/set_env.sh

Needs gcc, g++ and nm. Without a FOLDER it lies in the environment itself, and is built anew only for other sources.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = sorted(path for part in ("runtime", "operators") for path in (HERE / part).iterdir())
TOOLS = ("gcc", "g++", "nm")
VERSION = "8.5.0.simulated"
# Libraries that torch_npu is linked to by name; what it calls in them is in libascendcl here.
EMPTY = ("acl_op_compiler", "acl_tdt_channel", "atb", "ge_runner", "graph", "hccl")
PARTS = ("compiler", "opp", "runtime")  # of an installed toolkit: torch_npu looks whether their folders are there
CALLED = ("acl", "rt", "Msprof", "_ZN3atb")  # how the names of CANN's functions begin


class BuildError(Exception):
    """A tool that failed, with what it said."""


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def build(python: Path, folder: Path | None = None) -> Path:
    """The folder of the fake CANN that fits the environment of this interpreter; built where it is not there yet."""
    prefix, torch, torch_npu = map(Path, run(python, "-c", FIND).splitlines())
    if folder is None:
        folder = prefix / "fake_cann" / _key(torch, torch_npu)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        _build_into(Path(made), torch, torch_npu)
        (Path(made) / "set_env.sh").write_text(
            "".join(f'export {name}="{value}"\n' for name, value in environment(folder).items())
        )
        Path(made).chmod(0o755)
        try:
            Path(made).rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
        Path(made).mkdir(exist_ok=True)  # for the context manager to remove
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The variables with which a process finds this CANN, as the toolkit's own set_env.sh sets them."""
    return {
        "ASCEND_HOME_PATH": str(folder),
        "ASCEND_OPP_PATH": str(folder / "opp"),
        "LD_LIBRARY_PATH": str(folder / "lib64"),
    }


FIND = """
import sys
from importlib.util import find_spec
print(sys.prefix, *(find_spec(name).submodule_search_locations[0] for name in ("torch", "torch_npu")), sep="\\n")
"""


def _key(*packages: Path) -> str:
    """Names the sources and the versions of the packages."""
    found = hashlib.sha256()
    for path in (*SOURCES, Path(__file__), *(package / "version.py" for package in packages)):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _build_into(folder: Path, torch: Path, torch_npu: Path) -> None:
    libraries = folder / "lib64"
    libraries.mkdir()
    shared = ("-O1", "-fPIC", "-shared", "-Wall", "-Wno-unused-parameter", f"-L{libraries}")

    def link(compiler: str, name: str, *arguments: object) -> None:
        library = f"lib{name}.so"
        run(compiler, *shared, *arguments, "-o", libraries / library, f"-Wl,-soname,{library}")

    headers = torch_npu / "include" / "third_party" / "acl" / "inc"
    runtime = [path for path in SOURCES if path.suffix == ".c"]
    rest = folder / "rest.c"
    link("gcc", "ascendcl", "-isystem", headers, *runtime)
    rest.write_text(_stubs(torch_npu, _symbols(libraries / "libascendcl.so", "--defined-only")))
    link("gcc", "ascendcl", "-isystem", headers, *runtime, rest)
    for name in EMPTY:
        link("gcc", name, "-x", "c", "/dev/null", "-Wl,--no-as-needed", "-lascendcl")

    whole = folder / "operators.cpp"  # in one piece: torch's headers take most of the time
    whole.write_text("".join(f'#include "{path}"\n' for path in SOURCES if path.suffix == ".cpp"))
    of_torch = ("-isystem", torch / "include", f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10")
    link("g++", "opapi", "-std=c++20", whole, *of_torch, "-lascendcl")

    for part in PARTS:
        (folder / part).mkdir()
    record = folder / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    record.parent.mkdir()
    record.write_text(f"package_name=Ascend-cann-toolkit\nversion={VERSION}\n")


def _stubs(torch_npu: Path, known: set[str]) -> str:
    """Functions that torch_npu wants to find and the fake CANN does not have: they say so when they are called."""
    libraries = (*torch_npu.glob("*.so"), *torch_npu.glob("lib/*.so"))
    wanted = set().union(*(_symbols(library, "--undefined-only") for library in libraries))
    names = sorted(name for name in wanted - known if name.startswith(CALLED))
    return "int fake_missing(const char *name);\n" + "".join(
        f'int stub_{n}(void) __asm__("{name}");\nint stub_{n}(void) {{ return fake_missing("{name}"); }}\n'
        for n, name in enumerate(names)
    )


def _symbols(library: Path, which: str) -> set[str]:
    return {line.split()[-1] for line in run("nm", "-D", which, library).splitlines()}


def run(*command: object, env: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises BuildError with what it said where it fails."""
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("WARNING")]
        raise BuildError("\n".join([" ".join(map(str, command)), *said]))
    return done.stdout


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]), *(Path(argument).resolve() for argument in sys.argv[2:3])))
    except BuildError as error:
        sys.exit(f"error: {error}")
