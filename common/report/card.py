"""The front matter of a page: a model card's metadata, for Hugging Face, ModelScope and Modelers. Needs PyYAML."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from common.log.events import Env, Model
from common.report.facts import HUB_ID, PLAIN, Page

TASKS = {True: "image-classification", False: "image-feature-extraction"}


def front_matter(page: Page) -> str:
    """YAML between two `---`.

    Hugging Face reads `library_name`, `pipeline_tag`, `base_model` and `tags`, ModelScope `frameworks`, `tasks`,
    `base_model` and `tags`, Modelers `hardwares`, and checkers of ports the one word `hardware`. There is no license:
    the records do not know it. The NPU and its tags are claimed only for what ran on one: not for the CPU, and not for
    a simulation.
    """
    runs = [run for topic in page.topics for run in topic.group.runs]
    models, envs = [run.one(Model) for run in runs], [run.one(Env) for run in runs]
    libraries = _unique(model.library for model in models)
    tasks = _unique(TASKS[model.classifier] for model in models)
    fields: dict[str, str | list[str]] = {
        "library_name": libraries[0] if len(libraries) == 1 else "",
        "pipeline_tag": tasks[0] if len(tasks) == 1 else "",
        "tasks": tasks if len(tasks) == 1 else [],
        "frameworks": ["pytorch"],
        "base_model": _unique(model.model for model in models if _is_from_a_hub(model)),
        "hardwares": _plain(env.kind.upper() for env in envs if not env.is_simulated),
        "hardware": "NPU" if envs and all(env.kind == "npu" and not env.is_simulated for env in envs) else "",
        "tags": page.tags,
    }
    known = {key: value for key, value in fields.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n"


def _is_from_a_hub(model: Model) -> bool:
    return model.weights_source == model.model and HUB_ID.fullmatch(model.model) is not None


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _plain(names: Iterable[str]) -> list[str]:
    return _unique(name for name in names if PLAIN.fullmatch(name))
