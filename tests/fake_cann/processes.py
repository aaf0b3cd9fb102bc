"""Scripts on the real torch_npu and the fake CANN, for tests: as plain processes, or forked from one that has torch."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from conftest import ROOT, Finished
from fake_cann import build

# A script that ran inside the tests' own process has left them.
OF_SCRIPTS = ("TORCH_DEVICE_BACKEND_AUTOLOAD", "TORCH_NPU_FALLBACK_CPU_DISABLE")
QUICK = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SECONDS = 300  # of a script, at most


@dataclass
class RealNpu:
    """An interpreter with torch_npu, and the fake CANN that it finds; a context manager, for `run`."""

    python: Path
    cann: Path

    def __enter__(self) -> RealNpu:
        self._server = subprocess.Popen(
            [self.python, Path(__file__).parent / "server.py"],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate("\n")

    def environment(self, **more: object) -> dict[str, str]:
        """What a process needs to find this CANN, with `more` variables."""
        own = {name: value for name, value in os.environ.items() if name not in OF_SCRIPTS}
        return {**own, **QUICK, **build.environment(self.cann), **{k: str(v) for k, v in more.items()}}

    def run(self, script: str, *arguments: object, cwd: Path, **more: object) -> Finished:
        """A script of the project in a forked child."""
        job = {
            "script": str(ROOT / script),
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "environment": {key: str(value) for key, value in more.items()},
        }
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Finished(code, (cwd / "stdout").read_text(), (cwd / "stderr").read_text())

    def start(self, *command: object, cwd: Path, **more: object) -> Finished:
        """The interpreter as a plain process. A variable that is None is left out."""
        environment = self.environment(**more)
        left_out = [name for name, value in more.items() if value is None]
        done = subprocess.run(
            [str(part) for part in (self.python, *command)],
            cwd=cwd,
            env={name: value for name, value in environment.items() if name not in left_out},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        return Finished(done.returncode, done.stdout, done.stderr)
