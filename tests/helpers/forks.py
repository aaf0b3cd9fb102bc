"""Scripts as processes without the seconds that importing torch takes.

One process imports the libraries and then forks a child for each job: the child gets its own environment and folder,
and runs the unmodified script as `python script.py ...` would. The simulated NPU is imported in the child alone, which
therefore reads its settings and injects its faults afresh.

Run as a script, this file is that process: it reads one job a line, answers each with a line, and ends at an empty one.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch
from conftest import ROOT, Finished

SIMULATED_NPU = ROOT / "tests" / "simulated_npu"
# A machine may have set them, or a script that ran in the tests' own process.
OF_NPUS = ("SIMULATED_NPU_", "ASCEND_", "TORCH_NPU_")
needs_simulated_npu = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends written in Python; 2.14 has",
)
# Of transformers no more than this: the rest asks at its import whether there is an NPU.
PREPARED = (
    *("timm", "timm.data", "transformers", "torchvision.transforms.v2", "safetensors.torch", "tqdm", "PIL.Image"),
    *("scipy.optimize", "torch.distributed.checkpoint", "torch.distributed.run"),
)


class Forks:
    """The process that forks; a context manager."""

    def __enter__(self) -> Forks:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OF_NPUS)},
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
            "PYTHONPATH": str(ROOT / "tests"),  # for this file's own imports
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate("\n")  # not the end of the file: a fork of this process may hold the pipe open

    def run(
        self,
        script: Path | str,
        *arguments: object,
        cwd: Path,
        path: Sequence[Path] = (SIMULATED_NPU,),
        **environment: object,
    ) -> Finished:
        """Run a script of the project, or the one at a path, in `cwd` with these environment variables added.

        It imports from its own folder and from those of `path`: from none, there is no torch_npu.
        """
        job = {
            "script": str(ROOT / script),
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "path": [str(folder) for folder in path],
            "environment": {key: str(value) for key, value in environment.items()},
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Finished(code, (cwd / "stdout").read_text(), (cwd / "stderr").read_text())

    def measure_on_simulated_npu(self, script: str, gelu: str, cwd: Path) -> dict[str, Any]:
        """What a file of tests, run as a script on the simulated NPU, prints as its last line, from JSON."""
        child = self.run(script, cwd=cwd, path=(SIMULATED_NPU, ROOT), SIMULATED_NPU_GELU=gelu)
        assert child.code == 0, child.stderr
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return found


def serve() -> None:
    for module in PREPARED:
        __import__(module)
    while (line := sys.stdin.readline()).strip():
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run_job(job))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run_job(job: dict[str, Any]) -> int:
    """In the child: become the script, and return its exit code."""
    os.chdir(job["cwd"])
    os.environ.update(job["environment"])
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [job["script"], *job["arguments"]]
    sys.path[:0] = [str(Path(job["script"]).parent), *job["path"]]
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
