"""What state the machine is in: its load, its CPU's frequency, what the environment changes. Standard library only."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path

from common.log.events import PLACEBOS

# What changes how long a call takes, or is believed to.
VARIABLES = (
    *("ASCEND_LAUNCH_BLOCKING", "CUDA_LAUNCH_BLOCKING", "TASK_QUEUE_ENABLE", "TORCH_NPU_LAZY_FUSION"),
    *("CPU_AFFINITY_CONF", "PYTORCH_NPU_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "ACL_OP_COMPILER_CACHE_MODE"),
    *PLACEBOS,
)
ALLOCATOR = re.compile(r"jemalloc|tcmalloc|mimalloc|snmalloc|tbbmalloc|hoard")  # in the file names of their libraries
CPU_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")
MINUTE = 60.0  # seconds that the load average looks back


def variables() -> dict[str, str]:
    """Those of VARIABLES that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def preloaded_allocator() -> str | None:
    """The file name of the allocator that LD_PRELOAD puts in the place of malloc; None without one."""
    names = [Path(path).name for path in re.split(r"[:\s]+", os.environ.get("LD_PRELOAD", ""))]
    return next((name for name in names if ALLOCATOR.search(name)), None)


def frequency_policy(name: str) -> str | None:
    """What Linux says of the first CPU's frequency by this name (`scaling_governor`); None where it says nothing."""
    return (_read(CPU_FREQUENCY / name) or "").strip() or None


def load_average() -> float | None:
    """Processes that ran or waited for a CPU or a disk, the whole machine's average over a minute."""
    text = _read(Path("/proc/loadavg"))
    return None if text is None else float(text.split()[0])


def own_load() -> float | None:
    """What of the load average is this process: its CPU time over its age, damped as that average is."""
    text = _read(Path("/proc/self/stat"))
    if text is None:
        return None
    started = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the machine's start
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return damped_load(time.process_time(), age)


def damped_load(cpu_s: float, age_s: float) -> float:
    """The load average over a minute of a process that took so much CPU time, evenly, in the seconds of its age."""
    return cpu_s / age_s * (1 - math.exp(-age_s / MINUTE)) if age_s > 0 else 0.0


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
