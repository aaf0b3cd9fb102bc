"""What people call an Ascend that torch calls by its own name: scripts and readers look for A3, 910C and the like.

The names of torch are those of torch_npu (NpuVariables.cpp, its `socVersionMap`); which product series they belong to
is in CANN's documentation of `--soc_version`: of an Atlas A3 it is the chip's name and a number (Ascend910_9362), of an
Atlas A2 one name (Ascend910B4). A name that is not here stays as it is.
"""

from __future__ import annotations

import re

# The words for a name that fits, the best known last.
SERIES = {
    r"Ascend910_93\d\d": ("A3", "910C"),
    r"Ascend910B[1-4](C|-1)?": ("A2", "910B"),
    r"Ascend910(A|B|ProA|ProB|PremiumA)": ("910",),  # of the first generation
    r"Ascend310P\d": ("310P", "310"),
    r"Ascend310B\d": ("310B", "310"),
    r"Ascend310": ("310",),
}


def words_for(device_name: str) -> tuple[str, ...]:
    """What else an Ascend is called; nothing for a name that is not known."""
    return next((words for name, words in SERIES.items() if re.fullmatch(name, device_name)), ())
