"""What the tests on the simulated NPU run: the scripts with a small ViT, quickly."""

from __future__ import annotations

import json
from pathlib import Path

VIT = ("--model", "timm/test_vit", "--weights", "random")  # three blocks, exact GELU, seeded weights
ON_NPU = ("--device", "npu")
ACCURACY = ("accuracy_run.py", *ON_NPU, "--samples", "2")
PERF = ("accuracy_run_perf.py", *ON_NPU, "--iterations", "5", "--warmup", "1", "--max-seconds", "60")
CHECK = ("check_accuracy_run_perf.py", "--verbose", "--allow-random-weights", "--require-device", "npu")
SIZES = ("--batch-sizes", "1", "2")


def fired(report: Path) -> int:
    """How often the simulator's faults fired inside a model."""
    return sum(json.loads(report.read_text())["faults"].values()) if report.exists() else 0
