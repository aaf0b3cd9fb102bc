"""What happened on the simulated NPU, counted, and written as JSON when the process ends.

The file named by SIMULATED_NPU_REPORT gets one object:
    faults            {fault as written in SIMULATED_NPU_FAULT: times it fired}
    operators         {operator: kernels launched}; "copy" is a transfer to, from or between devices
    kernels           the sum of operators
    kernels_by_device {physical device id: kernels}
    synchronisations  times the host waited for a device
    forwards          outermost nn.Module forwards that launched at least one kernel
"""

import atexit
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torch_npu.settings import settings


@dataclass
class Activity:
    """Counts since the process started."""

    faults: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    kernels_by_device: Counter[int] = field(default_factory=Counter)
    synchronisations: int = 0
    forwards: int = 0

    def as_json(self) -> dict[str, Any]:
        """The report's content."""
        return {
            "faults": dict(self.faults),
            "operators": dict(sorted(self.operators.items())),
            "kernels": self.operators.total(),
            "kernels_by_device": {str(k): n for k, n in sorted(self.kernels_by_device.items())},
            "synchronisations": self.synchronisations,
            "forwards": self.forwards,
        }


activity = Activity()


def write_at_exit() -> None:
    """Write the report when this process ends, by whichever way, if SIMULATED_NPU_REPORT names a file."""
    if not settings.report:
        return
    path, leave = Path(settings.report), os._exit
    atexit.register(_write, path)

    def write_and_leave(code: int) -> NoReturn:
        _write(path)
        leave(code)

    os._exit = write_and_leave


def _write(path: Path) -> None:
    # A worker or helper process inherits the variable: one that never used the device must not
    # overwrite the report of the one that did.
    idle = not activity.operators and not activity.faults.total()
    if not (idle and path.exists()):
        path.write_text(json.dumps(activity.as_json(), indent=1) + "\n")
