"""How fast the scripts are beside what else one would use, on this machine's CPU, interleaved in one run.

Each row compares two ways to the same result, over alternating rounds: ours, the peer, the peer again; in the next
round the other way about. It gives the median of ours / peer over the rounds with its min..max, and the same of the
peer / the peer again: a ratio inside that second span is no difference.

timm loop     images a second, above 1 is faster: the throughput pass of accuracy_run_perf.py, against the inference
              loop that timm's benchmark.py documents (one random batch, no_grad, 10 warm-ups, 40 iterations, images by
              the seconds between the ends). The same module and threads.
pipeline      images a second, above 1 is faster: decoded images to hidden states, preprocessed one by one and encoded
              in batches as inference.py does, against transformers' pipeline("image-feature-extraction") with the same
              folder, images and batch size. The pipeline gives lists of numbers, which is part of its cost.
folder        images a second over a folder of photos: inference.py with --output (decoding in workers, forward, records
              and parts) against, in three lines, the decoding alone with the same workers; the forward alone; and the
              loop that timm's inference.py documents (its loader, forward, softmax, top 5) with the same workers.
cold start    seconds, below 1 is faster: from the start of the process to its end, with the embedding of one image
              printed; inference.py against tests/straightforward_recipe.py (create_model, load_file, load_state_dict).
              For timm's models.

Before a row is timed, both ways must give the same numbers, within 1e-3 of the largest.

    python tests/by_hand/bench_peers.py                                               a small model, about two minutes
    python tests/by_hand/bench_peers.py --model timm/vit_small_patch16_224 --batch-size 8 --pairs 7 --rows timm-loop
    python tests/by_hand/bench_peers.py --model vit_giant_folder --batch-size 1 --pairs 3 --rows cold-start
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from common.cli.options import ModelChoice

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from common.encoder.base import Encoder

ROWS = ("timm-loop", "pipeline", "folder", "cold-start")
TOLERANCE = 1e-3
WARMUP = 10  # calls; of timm's benchmark.py, as ITERATIONS
ITERATIONS = 40

Measure = Callable[[], float]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_peers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="timm/vit_tiny_patch16_224",
        metavar="ID",
        help="timm/<name>, which gets random weights, or a local folder with config.json and model.safetensors "
        "(default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="rounds of each row (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="default: all that fit the model")
    parser.add_argument("--warmup", type=int, default=WARMUP, metavar="N", help="calls (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, metavar="N", help="calls (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=100, metavar="N", help="of the folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="that decode (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all, %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # the CPU needs no torch_npu
    import torch

    from common.encoder import loading
    from common.images import decoding

    torch.set_num_threads(args.threads)
    photo = decoding.find_samples(None)[0]
    with ExitStack() as stack:
        folder = Path(args.model)
        if not folder.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            save_random(args.model, folder)
        print(f"{args.model}, batch size {args.batch_size}, {args.threads} threads, torch {torch.__version__}")
        print(f"{'row':<12} {'ours':>12} {'peer':>12} {'ours / peer':>24} {'peer / peer again':>24}", flush=True)
        for name in args.rows:
            if name == "cold-start":
                if "architecture" in json.loads((folder / "config.json").read_text()):
                    report(name, "s", compare(*cold_starts(folder, photo.path, args.threads), args.pairs))
                continue
            encoder = loading.load_encoder(ModelChoice(str(folder)))
            if name == "folder":
                photos = stack.enter_context(tempfile.TemporaryDirectory())
                save_photos(real_photos(), Path(photos), args.photos)
                ours, peers = folders(encoder, Path(photos), args.batch_size, args.workers)
                for peer, measure in peers.items():
                    report(peer, "images/s", compare(ours, measure, args.pairs))
                continue
            if name == "timm-loop":
                calls = timm_loop(encoder, photo.load(), args.batch_size, args.warmup, args.iterations)
            else:
                calls = pipelines(encoder, folder, photo.load(), args.batch_size, args.iterations)
            report(name, "images/s", compare(*calls, args.pairs))
    return 0


def save_random(model: str, folder: Path) -> None:
    """A snapshot folder as a hub has it, of a timm architecture with seeded random weights."""
    from safetensors.torch import save_file

    from common.encoder import loading

    built: Any = loading.load_encoder(ModelChoice(model, "random")).module.model
    config = {"architecture": built.pretrained_cfg["architecture"], "num_classes": built.num_classes}
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in built.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": built.pretrained_cfg}))


# --------------------------------------------------------------------------------------------------- the comparison
@dataclass(frozen=True)
class Round:
    """What three measurements next to each other gave, in images a second or seconds."""

    ours: float
    peer: float
    again: float


def compare(ours: Measure, peer: Measure, pairs: int) -> list[Round]:
    """Alternate: ours, peer, peer again; then peer again, peer, ours. So ours is always next to `peer`."""
    rounds = []
    for pair in range(pairs):
        if pair % 2 == 0:
            rounds.append(Round(ours(), peer(), peer()))
        else:
            again, first = peer(), peer()
            rounds.append(Round(ours(), first, again))
    return rounds


def report(name: str, unit: str, rounds: Sequence[Round]) -> None:
    medians = [statistics.median(values) for values in zip(*((each.ours, each.peer) for each in rounds), strict=True)]
    ours, peer = (f"{value:.2f} {unit}" for value in medians)
    against_peer = format_ratios([each.ours / each.peer for each in rounds])
    against_itself = format_ratios([each.peer / each.again for each in rounds])
    print(f"{name:<12} {ours:>12} {peer:>12} {against_peer:>24} {against_itself:>24}", flush=True)


def format_ratios(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"


def require_same(name: str, ours: Tensor, peer: Tensor) -> None:
    """A comparison of speed is void between ways that do not compute the same."""
    difference = float((ours - peer).abs().max() / peer.abs().max()) if ours.shape == peer.shape else math.inf
    if not difference <= TOLERANCE:
        sys.exit(f"error: {name}: ours and the peer differ by {difference:.3g} of the largest value")


# --------------------------------------------------------------------------------------------------------- the rows
def timm_loop(encoder: Encoder, image: Image, batch_size: int, warmup: int, iterations: int) -> tuple[Measure, Measure]:
    from common.device import devices
    from common.log import formulas
    from common.performance import timing

    module: Any = encoder.module
    pixel_values = encoder.preprocess(image).expand(batch_size + timing.ROTATION - 1, -1, -1, -1)
    batches = [pixel_values[turn : turn + batch_size].clone() for turn in range(timing.ROTATION)]

    def call(turn: int) -> devices.Outputs:
        return devices.forward(module, batches[turn])

    def ours() -> float:
        for turn in range(warmup):
            call(turn % timing.ROTATION)
        window = timing.Pass("throughput", call, pixel_values.device, calls=max(1, iterations // timing.ROUNDS))
        window.run_all(timing.Budget(warmup, iterations, math.inf))
        return formulas.images_per_second(window.samples_ms, batch_size * window.calls)

    return ours, lambda: timm_images_per_second(module.model, batches[0].shape, warmup, iterations)


def timm_images_per_second(model: nn.Module, shape: Sequence[int], warmup: int, iterations: int) -> float:
    """The figure of timm's benchmark.py --bench inference in float32 on a CPU, where nothing is to synchronise."""
    import torch

    with torch.no_grad():
        pixel_values = torch.randn(*shape)
        for _ in range(warmup):
            model(pixel_values)
        start = time.perf_counter()
        for _ in range(iterations):
            model(pixel_values)
        return shape[0] * iterations / (time.perf_counter() - start)


def pipelines(
    encoder: Encoder, folder: Path, image: Image, batch_size: int, iterations: int
) -> tuple[Measure, Measure]:
    import torch
    import transformers

    from common.device import devices

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    pipeline: Any = transformers.pipeline(
        "image-feature-extraction", model=str(folder), device="cpu", batch_size=batch_size
    )
    batch = [image] * batch_size

    def encode() -> Tensor:
        return devices.encode(encoder.module, torch.stack([encoder.preprocess(each) for each in batch]))[1]

    def images_per_second(call: Callable[[], object]) -> float:
        call()
        start = time.perf_counter()
        for _ in range(iterations):
            call()
        return batch_size * iterations / (time.perf_counter() - start)

    require_same("pipeline", encode(), torch.tensor(pipeline(batch)).flatten(0, 1))
    return lambda: images_per_second(encode), lambda: images_per_second(lambda: pipeline(batch))


def real_photos() -> list[Image]:
    """Those that matplotlib and scikit-image ship."""
    import skimage

    from common.images import decoding

    folder = Path(skimage.__file__).parent / "data"
    names = ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg")
    return [sample.load() for sample in decoding.find_samples([decoding.default_photo(), *(folder / n for n in names)])]


def save_photos(sources: Sequence[Image], folder: Path, count: int) -> None:
    """JPEG photos of 500 x 375, each another crop of a real one."""
    for number in range(count):
        image = sources[number % len(sources)]
        width, height = image.width // 2, image.height // 2
        left, top = number % width, number * 7 % height
        crop = image.crop((left, top, left + width, top + height)).resize((500, 375))
        crop.save(folder / f"{number:05}.jpg", quality=90)


def folders(encoder: Encoder, folder: Path, batch_size: int, workers: int) -> tuple[Measure, dict[str, Measure]]:
    from common import session
    from common.device import devices
    from common.device.ranks import Rank
    from common.features import embedder, topk
    from common.images import batching, decoding
    from common.log.writer import NoLog

    samples = decoding.find_samples([folder])
    batches = batching.Batches(samples, batch_size, encoder.preprocess, strict=True)
    example = batches[0].pixel_values

    def images_per_second(consume: Callable[[], object]) -> float:
        start = time.perf_counter()
        consume()
        return len(samples) / (time.perf_counter() - start)

    def whole() -> None:
        with session.start(NoLog(), "cpu", "float32", "strict") as running, tempfile.TemporaryDirectory() as output:
            runner = embedder.Embedder(running, encoder, batches, workers)
            report = topk.Report(NoLog(), 5, encoder, len(samples))
            for part in embedder.write_features(Path(output) / "features.safetensors", False, Rank(), runner):
                report.add(part)

    def decode() -> None:
        for _ in batching.load(batches, range(len(batches)), workers):
            pass

    def forward() -> None:
        for _ in range(len(batches)):
            devices.encode(encoder.module, example)[0].cpu()

    peers = {"folder/decode": decode, "folder/model": forward}
    if encoder.library == "timm":
        peers["folder/timm"] = timm_inference(encoder, folder, batch_size, workers)
    return lambda: images_per_second(whole), {
        name: (lambda consume=consume: images_per_second(consume)) for name, consume in peers.items()
    }


def timm_inference(encoder: Encoder, folder: Path, batch_size: int, workers: int) -> Callable[[], None]:
    """The loop of timm's inference.py: its dataset and loader, forward, softmax, top 5, all kept on the host."""
    import torch
    from timm.data import create_loader, resolve_model_data_config
    from timm.data.dataset import ImageDataset

    model: Any = encoder.module.model
    config = resolve_model_data_config(model)

    def consume() -> None:
        loader = create_loader(
            ImageDataset(str(folder), class_map=""),
            batch_size=batch_size,
            use_prefetcher=False,
            num_workers=workers,
            device=torch.device("cpu"),
            **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")},
        )
        kept = []
        with torch.no_grad():
            for pixel_values, _ in loader:
                values, indices = model(pixel_values).softmax(-1).topk(5)
                kept.append((values.cpu().numpy(), indices.cpu().numpy()))

    return consume


def cold_starts(folder: Path, photo: Path, threads: int) -> tuple[Measure, Measure]:
    """Whole processes; the weights are in the page cache once the two were compared, as far as the memory allows."""
    import torch

    from common.log import reader
    from common.log.events import Inference

    recipe = [ROOT / "tests" / "by_hand" / "straightforward_recipe.py", folder.resolve(), photo]
    script = [ROOT / "inference.py", "--model", folder.resolve(), "--device", "cpu", "--image", photo]

    def run(command: Sequence[str | Path]) -> tuple[float, str]:
        with tempfile.TemporaryDirectory() as cwd:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=cwd,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                capture_output=True,
                text=True,
            )
            elapsed = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr}")
        return elapsed, done.stdout

    (logged,) = reader.read_runs(run(script)[1].encode().splitlines())
    inference = logged.one(Inference)
    ours = torch.tensor([[entry.index, entry.value] for entry in inference.topk])
    peer = torch.tensor([list(map(float, line.split())) for line in run(recipe)[1].splitlines()])
    require_same("cold-start", ours[:, 1], peer[:, 1])
    return lambda: run(script)[0], lambda: run(recipe)[0]


if __name__ == "__main__":
    sys.exit(main())
