"""What the tests share: the scripts as processes, tiny checkpoints, and real photos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers.forks import Forks

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: the tests run a worker a core

ROOT = Path(__file__).parent.parent
TORCH_SCRIPTS = ("inference.py", "accuracy_run.py", "accuracy_run_perf.py")
PERF_QUICK = ("--batch-sizes", "1", "2", "--iterations", "5", "--warmup", "1", "--max-seconds", "60")

TINY_TIMM = {
    "architecture": "test_vit",
    "num_classes": 10,
    "pretrained_cfg": {"input_size": [3, 160, 160], "fixed_input_size": True, "crop_pct": 0.95, "num_classes": 10},
}
TINY_VIT = {
    "architectures": ["ViTModel"],
    "model_type": "vit",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TINY_PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class Finished:
    """A script that has run: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def verdict(self) -> str:
        return self.stdout.splitlines()[-1] if self.stdout else ""


Runner = Callable[..., Finished]


@pytest.fixture
def run_script(tmp_path: Path, request: pytest.FixtureRequest) -> Runner:
    """Run a script of the project in a folder of the test, without a network and on one thread.

    One that needs torch is a fork of a process that has it; with variables of its own, even none, a plain process, as
    an import may read them.
    """

    def run(script: str, *arguments: object, env: dict[str, str] | None = None) -> Finished:
        if env is None and script in TORCH_SCRIPTS:
            forks: Forks = request.getfixturevalue("forks")
            return forks.run(script, *arguments, cwd=tmp_path, path=())
        done = subprocess.run(
            [sys.executable, ROOT / script, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """A process that has imported the libraries, and forks a child for each script."""
    from helpers.forks import Forks

    with Forks() as running:
        yield running


def save_timm(folder: Path, config: dict[str, Any] = TINY_TIMM, seed: int = 0) -> Path:
    """A snapshot folder as the hubs have it, of a small timm model with random weights."""
    import timm
    from safetensors.torch import save_file

    from common.encoder import random_weights, weights

    model = weights.build_on_meta(lambda: timm.create_model(config["architecture"], num_classes=config["num_classes"]))
    folder.mkdir(parents=True)
    save_file(random_weights.make_state(model, seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_transformers(folder: Path, config: dict[str, Any] = TINY_VIT, seed: int = 0, pooler: bool = False) -> Path:
    """A snapshot folder of a small transformers ViT, saved by transformers itself."""
    import torch
    from transformers import AutoConfig, ViTModel

    torch.manual_seed(seed)
    model_type = config["model_type"]
    options = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    ViTModel(AutoConfig.for_model(model_type, **options), add_pooling_layer=pooler).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(TINY_PREPROCESSING))
    return folder


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("checkpoints") / "tiny_timm")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("checkpoints") / "tiny_vit")


@pytest.fixture(scope="session")
def coffee() -> Path:
    """A real photo of a cup of espresso."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "coffee.png"


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> Path:
    """A folder with the logs of a good accuracy and a good perf run of one tiny model on the CPU."""
    import accuracy_run
    import accuracy_run_perf

    folder = tmp_path_factory.mktemp("evidence")
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(folder)]
    assert accuracy_run.main([*common, "--samples", "2"]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK, "--explain"]) == 0
    return folder


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the checker in this process: its exit code and what it printed, every row."""

    import check_accuracy_run_perf

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = check_accuracy_run_perf.main([*(str(argument) for argument in arguments), "--verbose"])
        return code, capsys.readouterr().out

    return run
