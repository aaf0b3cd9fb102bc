"""Compare a vision encoder's outputs on a device with a reference on the CPU, sample by sample."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import options
import summaries
from figures import format_metric, percent
from ranks import Rank
from runlog import RunLog
from summaries import OUTPUTS

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from common import Outputs
    from encoders import Encoder
    from images import Sample
    from reference import Reference
    from session import Session

SCRIPT = "accuracy_run.py"
EXAMPLES = """examples:
  python accuracy_run.py --model demo                        no NPU, no hub: float32 against float64
  python accuracy_run.py --device npu                        the ViT-giant CLIP, NPU against CPU
  python accuracy_run.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python accuracy_run.py --device npu --image photos/ --samples 32
  python accuracy_run.py --device cpu --save-reference giant.safetensors    the CPU's side, on any machine
  python accuracy_run.py --device npu --reference giant.safetensors         the NPU's side against that file
"""
EXPECTED_IMAGES = 2  # whose rounding to 16 bits is emulated


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.RunParser(SCRIPT, __doc__, EXAMPLES, "accuracy.log")
    options.add_run_options(parser)
    parser.add_argument(
        "--samples",
        type=options.positive_int,
        default=8,
        metavar="N",
        help="how many images to compare; seeded crops fill up where there are fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="the largest relative_error and relative_l2 that pass (default: %(default)s)",
    )
    parser.add_argument(
        "--golden", action="store_true", help="compare with float64 on the CPU too, and give the float32 noise floor"
    )
    parser.add_argument(
        "--explain", action="store_true", help="name the cause of the error and the block (always done after a FAIL)"
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--save-reference",
        type=Path,
        metavar="FILE",
        help="keep the pixel values and what the CPU computes from them, as .safetensors",
    )
    files.add_argument(
        "--reference", type=Path, metavar="FILE", help="take both from such a file: no image, no forward on the CPU"
    )
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rank = Rank.of_this_process()
    with options.open_log(args, SCRIPT, "accuracy.log", rank.index) as log:
        if rank.count > 1:
            raise options.UserError("accuracy_run.py proves one device: run it without torchrun")
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch

            import images
            import loading
            import reference
            import session

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            # Comparing a thing with itself proves nothing: float32 on the CPU is held to float64.
            itself = (running.device, running.dtype) == (torch.device("cpu"), torch.float32)
            precisions = ("float64",) if itself else ("float32", "float64") if args.golden else ("float32",)
            named = args.image or not args.reference  # a saved reference brings images of its own
            decoded = images.Decoded([], [], {})
            if named:
                found = images.find_samples(args.image)
                decoded = images.decode_exactly(found, args.samples, args.seed, args.strict_images)
                decoded.report(log)
            samples = decoded.samples
            load = partial(loading.load_encoder, args.model, args.weights, args.hub, args.revision, args.seed)
            encoder = load(hashed=True)
            weights_sha256 = encoder.weights_sha256()  # waited for: beside the forwards it costs memory
            log.line(f"Model: {encoder.model} ({encoder.weights_source})")
            if args.reference:
                saved = reference.load(args.reference, precisions, args.samples, samples)
                saved.require_encoder(encoder, weights_sha256)
                saved.report(log)
                known = saved.reference
            else:
                rounded = reference.EXPECTED_DTYPES if args.save_reference else {args.dtype} - {"float32"}
                known = compute_reference(log, encoder, samples, decoded.images, precisions, rounded)

            with running.numerics.watch():
                candidates = forward_all(encoder.module, known.pixel_values, running.device, running.dtype)
            running.record(encoder, candidates[0][0], weights_sha256, references=sorted(precisions))
            if args.save_reference:
                kept = {"float32": join(candidates), **known.outputs} if itself else known.outputs
                reference.save(args.save_reference, replace(known, outputs=kept), encoder, weights_sha256)
                log.line(f"Saved reference: {args.save_reference.name} ({', '.join(kept)})")
            classifier = encoder.label is not None
            passed = report_all(running, known, candidates, precisions, args.threshold, classifier)
            if args.explain or not passed:
                explain_worst(running, load().module, encoder.module, known, candidates, precisions[0])
    return options.EXIT_OK


def compute_reference(
    log: RunLog,
    encoder: Encoder,
    samples: Sequence[Sample],
    decoded: Sequence[Image],
    precisions: Sequence[str],
    rounded: Iterable[str],
) -> Reference:
    """What the encoder gives on the CPU for these images, in float32, float64 or both.

    `rounded` are the 16-bit dtypes whose error is emulated, to know what to expect of a device that computes in them.
    """
    import torch

    import golden
    import reference

    log.line(f"Reference: {', '.join(precisions)}, computed on the CPU")
    pixel_values = torch.stack([encoder.preprocess(image) for image in decoded])
    outputs = {}
    if "float32" in precisions:
        outputs["float32"] = join(forward_all(encoder.module, pixel_values, torch.device("cpu"), torch.float32))
    if "float64" in precisions:
        outputs["float64"] = golden.forward_in_float64(encoder.module, pixel_values)
    plain = outputs[precisions[0]]
    expected = {dtype: expect_errors(encoder.module, pixel_values, plain, dtype) for dtype in rounded}
    return reference.Reference.of(samples, pixel_values, outputs, expected)


def forward_all(module: nn.Module, pixel_values: Tensor, device: torch.device, dtype: torch.dtype) -> list[Outputs]:
    """Move the encoder to the device and dtype, in place, and run it on each image of pixel_values [N, 3, H, W]."""
    from tqdm import tqdm

    import common

    common.place(module, device, dtype)
    bar = tqdm(pixel_values[:, None], f"{device} {common.dtype_name(dtype)}", unit="image", disable=None)
    return [common.encode(module, pixels.to(device, dtype)) for pixels in bar]


def join(outputs: Sequence[Outputs]) -> Outputs:
    """The outputs of single images, [1, D] and [1, T, C] each, as [N, D] and [N, T, C]."""
    import torch

    embeddings, hidden_states = zip(*outputs, strict=True)
    return torch.cat(embeddings), torch.cat(hidden_states)


def report_all(
    running: Session,
    known: Reference,
    candidates: Sequence[Outputs],
    precisions: Sequence[str],
    threshold: float,
    classifier: bool,
) -> bool:
    """Compare and report both outputs against each reference; True where all of them pass their gates."""
    import common

    dtype = common.dtype_name(running.dtype)
    expected = known.expected_relative_l2.get(dtype, {})
    floors = report_noise_floor(running.log, known.outputs)
    passed = True
    for precision in precisions:
        records = compare_all(running.log, known, precision, candidates)
        for output in OUTPUTS:
            of_output = [record for record in records if record["output"] == output]
            gate = Gate(dtype, threshold, expected.get(output), classifier and output == "embedding")
            passed &= report_output(running.log, output, of_output, gate, precision)
            if (dtype, running.numerics.mode) == ("float32", "strict"):
                warn_of_noise(running.log, of_output, floors.get(output))
    return passed


def compare_all(log: RunLog, known: Reference, precision: str, candidates: Sequence[Outputs]) -> list[dict[str, Any]]:
    """Record the metrics of both outputs of every image against the reference in one precision."""
    records = []
    for at, candidate in enumerate(candidates):
        about = {"image": known.images[at], "image_sha256": known.image_sha256[at], "reference": precision}
        embedding, hidden_state = known.outputs[precision]
        records += compare_sample(log, about, (embedding[at : at + 1], hidden_state[at : at + 1]), candidate)
    return records


def compare_sample(
    log: RunLog, about: Mapping[str, str], reference: Outputs, candidate: Outputs
) -> list[dict[str, Any]]:
    """Record the metrics of both outputs of one image, [1, D] and [1, T, C] each; `about` says of which image."""
    import common
    import metrics

    records = []
    for output, r, y in zip(OUTPUTS, reference, candidate, strict=True):
        on_host = y.cpu()
        record: dict[str, Any] = {
            **about,
            "output": output,
            "device": str(y.device),
            "dtype": common.dtype_name(y.dtype),
            "shape": list(y.shape),
            **metrics.compare(r, on_host),
        }
        if output == "embedding":
            record["fingerprint"] = metrics.fingerprint(on_host[0])
        else:
            record["worst_token"], record["worst_token_relative_l2"] = metrics.worst_token(r[0], on_host[0])
        log.record("sample", **record)
        records.append(record)
    return records


def expect_errors(module: nn.Module, pixel_values: Tensor, plain: Outputs, dtype: str) -> dict[str, float | None]:
    """The relative_l2 of each output that rounding to a 16-bit dtype costs, emulated on the CPU for the first images.

    `plain` are the outputs of pixel_values [N, 3, H, W] without that rounding.
    """
    import common
    import emulation
    import metrics

    few = pixel_values[:EXPECTED_IMAGES, None]  # one at a time: each takes memory for its activations
    outputs = join([emulation.emulate(partial(common.forward, module, pixels), dtype) for pixels in few])
    pairs = zip(OUTPUTS, plain, outputs, strict=True)
    return {name: metrics.worst_relative_l2(r[: len(few)], y) for name, r, y in pairs}


@dataclass(frozen=True)
class Gate:
    """What decides of an output: the threshold, for bfloat16 the error to expect, and whether it is logits."""

    dtype: str
    threshold: float
    expected_relative_l2: float | None
    classifier: bool

    @property
    def allowed(self) -> float:
        return summaries.allowed_error(self.dtype, self.threshold, self.expected_relative_l2)


def report_output(log: RunLog, output: str, records: Sequence[dict[str, Any]], gate: Gate, reference: str) -> bool:
    """Print and record the worst of all samples of one output; True where it passes the gate."""
    worst = summaries.worst_metrics(records)
    nonfinite = sum(record["nonfinite"] for record in records)
    passed = summaries.is_within(worst, nonfinite, gate.allowed, gate.classifier)
    log.line()
    log.line(f"{output} against {reference}, the worst of {len(records)} samples")
    for metric in summaries.METRICS:
        log.line(f"{metric}: {format_metric(metric, worst[metric])}")
    if output == "hidden_state":
        errors = [record["worst_token_relative_l2"] for record in records]
        worst_at = find_worst(errors)
        token, image = records[worst_at]["worst_token"], records[worst_at]["image"]
        log.line(f"worst token: {token} of {image} ({percent(errors[worst_at])})")
    if nonfinite:
        log.line(f"nonfinite: {nonfinite}")
    if gate.expected_relative_l2 is not None:
        log.line(f"expected_relative_l2: {percent(gate.expected_relative_l2)} (rounding to {gate.dtype}, emulated)")
    log.line(f"threshold: {round(gate.allowed * 100, 9)}%")
    log.line(f"result: {'PASS' if passed else 'FAIL'}")
    log.record(
        "accuracy",
        output=output,
        reference=reference,
        samples=len(records),
        **worst,
        nonfinite=nonfinite,
        expected_relative_l2=gate.expected_relative_l2,
        threshold=gate.allowed,
        result="PASS" if passed else "FAIL",
    )
    return passed


def find_worst(errors: Sequence[float | None]) -> int:
    """Where the largest error is; one that is not finite is the largest."""
    sizes = [math.inf if error is None else error for error in errors]
    return sizes.index(max(sizes))


def report_noise_floor(log: RunLog, outputs: Mapping[str, Outputs]) -> dict[str, float | None]:
    """Print and record how far the CPU's own float32 is from float64, by output; nothing where only one is known."""
    import metrics

    if not {"float32", "float64"} <= set(outputs):
        return {}
    log.line()
    floors = {}
    for output, golden, float32 in zip(OUTPUTS, outputs["float64"], outputs["float32"], strict=True):
        floors[output] = metrics.worst_relative_l2(golden, float32)
        log.line(f"noise floor of {output}: {percent(floors[output])} (the CPU's float32 against float64, relative_l2)")
        log.record("noise_floor", output=output, relative_l2=floors[output])
    return floors


def warn_of_noise(log: RunLog, records: Sequence[dict[str, Any]], floor: float | None) -> None:
    """Say so where strict float32 errs by more than rounding can."""
    error = summaries.worst_metrics(records)["relative_l2"]
    if summaries.is_far_above_noise(error, floor):
        log.line(f"warning: {percent(error)} is far above the noise of float32; --explain looks for the cause")


def explain_worst(
    running: Session,
    reference: nn.Module,
    module: nn.Module,
    known: Reference,
    candidates: Sequence[Outputs],
    precision: str,
) -> None:
    """Explain the error of the image with the largest one; `reference` is the encoder on the CPU in float32."""
    import explanation
    import metrics

    pairs = zip(known.outputs[precision][0], candidates, strict=True)
    errors = [metrics.compare(r, embedding[0].cpu())["relative_l2"] for r, (embedding, _) in pairs]
    worst = find_worst(errors)
    outputs = (candidates[worst][0].cpu(), candidates[worst][1].cpu())
    pixel_values = known.pixel_values[worst : worst + 1]
    explanation.explain(running, reference, module, pixel_values, outputs, known.images[worst])


if __name__ == "__main__":
    options.run(main)
