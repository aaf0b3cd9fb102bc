"""Several ranks: torchrun's environment, work shared without a remainder, and the scripts under torchrun itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Finished, Runner
from helpers.forks import SIMULATED_NPU, needs_simulated_npu
from helpers.logs import find, read_records
from PIL import Image

from common.device.ranks import Rank
from common.errors import UserError

VIT = ("--model", "timm/test_vit", "--weights", "random")
IMAGES = 101


def torchrun(ranks: int, cwd: Path, *arguments: object, **environment: str) -> Finished:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """101 small photos, each another crop of a real one."""
    import skimage

    folder = tmp_path_factory.mktemp("photos")
    coffee = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    for number in range(IMAGES):
        coffee.crop((number, number, number + 200, number + 150)).save(folder / f"{number:03}.png")
    return folder


# ------------------------------------------------------------------------------------------------------- one rank
@pytest.mark.parametrize(("length", "count"), [(0, 3), (1, 3), (101, 1), (101, 2), (101, 3), (8, 8), (7, 8)])
def test_shares_hold_each_index_once(length: int, count: int) -> None:
    shares = [list(Rank(index, count).share(length)) for index in range(count)]
    assert sorted(index for share in shares for index in share) == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_torchruns_environment_says_which_rank_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Rank.of_this_process() == Rank(0, 1, 0, 0)
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "GROUP_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Rank.of_this_process() == Rank(9, 16, 1, 1)


def test_each_rank_has_its_own_device() -> None:
    rank = Rank(3, 4, 3)
    assert [rank.device(name) for name in ("npu", "cuda", "cpu")] == ["npu:3", "cuda:3", "cpu"]
    assert Rank().device("npu:1") == "npu:1"
    with pytest.raises(UserError, match="one device, but torchrun started 4 ranks"):
        rank.device("npu:1")


# ------------------------------------------------------------------------------------------------- under torchrun
def test_ranks_give_the_features_of_one_process(photos: Path, run_script: Runner, tmp_path: Path) -> None:
    arguments = (*VIT, "--device", "cpu", "--image", photos, "--batch-size", 8, "--output")
    assert run_script("inference.py", *arguments, "1.npy").code == 0
    done = torchrun(3, tmp_path, ROOT / "inference.py", *arguments, "3.npy")
    assert done.code == 0, done.stderr
    alone, shared = np.load(tmp_path / "1.npy"), np.load(tmp_path / "3.npy")
    assert len(alone) == IMAGES
    assert np.abs(shared - alone).max() <= 1e-5 * np.abs(alone).max()
    records = read_records(tmp_path / "logs" / "inference.log")
    names = [record["image"] for record in records if record["event"] == "inference"]
    assert names == [f"{number:03}.png" for number in range(IMAGES)]
    assert done.stdout.count("Parameters: ") == 1


@needs_simulated_npu
def test_two_simulated_npus_share_the_work(photos: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(SIMULATED_NPU), "SIMULATED_NPU_DEVICES": "2"}
    arguments = ("--device", "npu", "--image", photos, "--batch-size", 16, "--output", "npu.npy")
    done = torchrun(2, tmp_path, ROOT / "inference.py", *VIT, *arguments, **env)
    assert done.code == 0, done.stderr
    assert np.load(tmp_path / "npu.npy").shape == (IMAGES, 1000)

    quick = ("--batch-sizes", 1, 2, "--iterations", 5, "--warmup", 1, "--max-seconds", 60, "--no-cpu-baseline")
    done = torchrun(2, tmp_path, ROOT / "accuracy_run_perf.py", *VIT, "--device", "npu", *quick, **env)
    assert done.code == 0, done.stderr
    records = read_records(tmp_path / "logs" / "benchmark.log")
    assert records[0]["ranks"] == 2
    for batch_size in (1, 2):
        shared = find(records, "ranks", batch_size=batch_size)
        assert [share["device"] for share in shared["shares"]] == ["npu:0", "npu:1"]
        assert shared["total_throughput_ips"] == pytest.approx(sum(shared["throughput_ips"]))
        assert shared["scaling_efficiency"] > 0


def test_a_rank_that_dies_ends_the_run_without_a_log_that_passes(photos: Path, tmp_path: Path) -> None:
    """The second rank is killed at its first image; the first one would wait for it for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import PIL.Image\n"
        "    PIL.Image.open = lambda *arguments, **keywords: os.kill(os.getpid(), 9)\n"
    )
    arguments = ("--device", "cpu", "--image", photos, "--workers", 0, "--output", "features.npy")
    done = torchrun(2, tmp_path, ROOT / "inference.py", *VIT, *arguments, PYTHONPATH=str(tmp_path))
    assert done.code != 0
    assert not (tmp_path / "features.npy").exists()
    assert read_records(tmp_path / "logs" / "inference.log")[-1]["event"] != "run_end"


def test_torchrun_is_refused_where_it_makes_no_sense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import accuracy_run
    import inference

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "GROUP_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="without torchrun"):
        accuracy_run.main(["--model", "demo", "--log-dir", str(tmp_path)])
    with pytest.raises(UserError, match="torchrun needs --output"):
        inference.main(["--model", "demo", "--log-dir", str(tmp_path)])
