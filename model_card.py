"""The front matter of a page: a model card's metadata for Hugging Face, ModelScope and Modelers.

Hugging Face reads `library_name`, `pipeline_tag`, `base_model` and `tags`, ModelScope `frameworks`, `tasks`,
`base_model` and `tags`, Modelers `hardwares`. There is no license: the records do not know it. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from evidence import Group, is_simulated, one
from runlog import Run

LIBRARIES = ("timm", "transformers")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PLAIN = re.compile(r"[A-Za-z0-9][\w. -]{0,60}", re.ASCII)  # a name that can be a tag
FRAMEWORK = "pytorch"
TASKS = {True: "image-classification", False: "image-feature-extraction"}


def front_matter(groups: Sequence[Group]) -> str:
    """YAML between two `---`. Names from the records are quoted, and left out where they are no plain names.

    The NPU and its tags are claimed only for what ran on one: not for the CPU, and not for a simulation.
    """
    runs = [run for group in groups for run in group.runs]
    models = [one(run, "model") for run in runs]
    libraries = _unique(str(model.get("library")) for model in models if model.get("library") in LIBRARIES)
    hub_ids = _unique(
        model["model"]
        for model in models
        if HUB_ID.fullmatch(model["model"]) and model.get("weights_source") == model["model"]
    )
    tasks = _unique(TASKS[model.get("classifier") is True] for model in models)
    hardware = _unique(name for run in runs for name in _hardware(run))
    lines = ["---"]
    if len(libraries) == 1:
        lines.append(f"library_name: {libraries[0]}")
    if len(tasks) == 1:
        lines += [f"pipeline_tag: {tasks[0]}", *_list("tasks", tasks)]
    lines += _list("frameworks", [FRAMEWORK])
    lines += _list("base_model", [json.dumps(hub_id) for hub_id in hub_ids])
    lines += _list("hardwares", hardware)
    lines += _list("tags", _unique(tag for run in runs for tag in _tags(run)) + libraries)
    return "\n".join([*lines, "---"])


def _hardware(run: Run) -> list[str]:
    """The kind of device that computed; a simulated one is none."""
    env = one(run, "env")
    return [] if is_simulated(env) else [env["device"].partition(":")[0].upper()]


def _tags(run: Run) -> list[str]:
    env = one(run, "env")
    kind, name = env["device"].partition(":")[0], str(env.get("device_name"))
    if is_simulated(env):
        return ["simulation"]
    if kind != "npu":
        return [kind.upper()]
    return ["NPU", "Ascend", *([json.dumps(name)] if PLAIN.fullmatch(name) else [])]


def _list(key: str, values: list[str]) -> list[str]:
    return [f"{key}:", *(f"  - {value}" for value in values)] if values else []


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
