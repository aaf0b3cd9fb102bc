"""The process that forks a child for each script, in the environment with torch_npu: importing torch takes seconds.

It reads one job a line from standard input, answers each with the child's exit code, and ends at an empty line.
torch_npu, and transformers, which asks for it at its import, are left to the child: their order is the script's.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

PREPARED = ("torch", "torchvision.transforms.v2", "timm", "timm.data", "safetensors.torch", "tqdm", "PIL.Image")
BACKENDS = "TORCH_DEVICE_BACKEND_AUTOLOAD"


def serve() -> None:
    os.environ[BACKENDS] = "0"
    for module in PREPARED:
        __import__(module)
    del os.environ[BACKENDS]
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
    sys.path[0] = str(Path(job["script"]).parent)
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # torch_npu's among them
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
