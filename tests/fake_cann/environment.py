"""Make a virtual environment with the real torch_npu, beside a torch for CPUs, and build the fake CANN for it.

    python environment.py FOLDER      the last line printed is the environment's interpreter

Exit 1, with the reason on standard error, where it cannot be had: another Python or machine, no package, no compiler.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import build

ROOT = Path(__file__).parent.parent.parent
# A CUDA build of torch and torch_npu abort in one process, so torch is the one for CPUs, by its local version.
PINNED = ("torch==2.13.0+cpu", "torch-npu==2.13.0", "torchvision==0.28.0")
# torchvision's compiled part does not load beside a torch for CPUs. It does without, but for this module, which
# describes that part's operators.
OF_COMPILED_PART = "_meta_registrations.py"
IMPORTS = "import torch, torchvision, timm, timm.data, transformers, safetensors.torch, matplotlib, torch_npu"


def make(folder: Path) -> Path:
    """The interpreter of the environment in this folder. Raises BuildError, saying what is missing."""
    python = folder / "bin" / "python"
    missing = build.missing_tools()
    if missing:
        raise build.BuildError(f"not installed: {', '.join(missing)}")
    build.run(sys.executable, "-m", "venv", folder)
    # Nothing is compiled to bytecode but what is imported below: most of it never is.
    build.run(python, "-m", "pip", "install", "--quiet", "--no-compile", *PINNED, "-r", ROOT / "requirements.txt")
    found = build.run(python, "-c", "from importlib.util import find_spec; print(find_spec('torchvision').origin)")
    (Path(found.strip()).parent / OF_COMPILED_PART).write_text("")
    cann = build.build(python)
    writing = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    build.run(python, "-c", IMPORTS, env={**writing, **build.environment(cann)})
    return python


def main(folder: Path) -> int:
    started = time.monotonic()
    try:
        python = make(folder)
    except (build.BuildError, OSError) as error:
        print(f"no environment with torch_npu: {error}", file=sys.stderr)
        return 1
    print(f"an environment with torch_npu, and a fake CANN, in {time.monotonic() - started:.0f} s")
    print(python)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
