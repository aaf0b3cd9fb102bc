"""Compare a vision encoder's outputs on a device with a reference on the CPU, sample by sample."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import options
import summaries
from runlog import RunLog, percent

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from common import Outputs
    from encoders import Encoder
    from images import Sample
    from reference import Reference

SCRIPT = "accuracy_run.py"
EXAMPLES = """examples:
  python accuracy_run.py --model demo                        no NPU, no hub: float32 against float64
  python accuracy_run.py --device npu                        the ViT-giant CLIP, NPU against CPU
  python accuracy_run.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python accuracy_run.py --device npu --image photos/ --samples 32
  python accuracy_run.py --device cpu --save-reference giant.safetensors    the CPU's side, on any machine
  python accuracy_run.py --device npu --reference giant.safetensors         the NPU's side against that file
"""
OUTPUTS = ("embedding", "hidden_state")


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
    with options.open_log(args, SCRIPT, "accuracy.log") as log:
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch

            import encoders
            import images
            import reference
            import session

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            # Comparing a thing with itself proves nothing: float32 on the CPU is held to float64.
            itself = (running.device, running.dtype) == (torch.device("cpu"), torch.float32)
            precisions = ("float64",) if itself else ("float32", "float64") if args.golden else ("float32",)
            named = args.image or not args.reference
            samples = images.sample_exactly(images.find_samples(args.image), args.samples, args.seed) if named else []
            saved = reference.load(args.reference, precisions, args.samples, samples) if args.reference else None
            decoded = [] if saved else [sample.load() for sample in samples]
            encoder = encoders.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed)
            weights_sha256 = encoder.weights_sha256()
            log.line(f"Model: {encoder.model} ({encoder.weights_source})")
            if saved:
                saved.require_encoder(encoder, weights_sha256)
                saved.report(log)
            known = saved.reference if saved else compute_reference(log, encoder, samples, decoded, precisions)
            with running.numerics.watch():
                candidates = forward_all(encoder.module, known.pixel_values, running.device, running.dtype)

            running.record(encoder, candidates[0][0], weights_sha256)
            if args.save_reference:
                kept = {"float32": join(candidates), **known.outputs} if itself else known.outputs
                reference.save(args.save_reference, replace(known, outputs=kept), encoder, weights_sha256)
                log.line(f"Saved reference: {args.save_reference.name} ({', '.join(kept)})")
            report_noise_floor(log, known.outputs)
            for precision in precisions:
                records = compare_all(log, known, precision, candidates)
                for output in OUTPUTS:
                    of_output = [record for record in records if record["output"] == output]
                    report_output(log, output, of_output, args.threshold, precision)
    return options.EXIT_OK


def compute_reference(
    log: RunLog, encoder: Encoder, samples: Sequence[Sample], decoded: Sequence[Image], precisions: Sequence[str]
) -> Reference:
    """What the encoder gives on the CPU for these images, in float32, float64 or both."""
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
    return reference.Reference.of(samples, pixel_values, outputs)


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
    import numerics

    records = []
    for output, r, y in zip(OUTPUTS, reference, candidate, strict=True):
        on_host = y.cpu()
        record: dict[str, Any] = {
            **about,
            "output": output,
            "device": str(y.device),
            "dtype": common.dtype_name(y.dtype),
            "shape": list(y.shape),
            **numerics.compare(r, on_host),
        }
        if output == "embedding":
            record["fingerprint"] = numerics.fingerprint(on_host[0])
        else:
            record["worst_token"], record["worst_token_relative_l2"] = numerics.worst_token(r[0], on_host[0])
        log.record("sample", **record)
        records.append(record)
    return records


def report_output(
    log: RunLog, output: str, records: Sequence[dict[str, Any]], threshold: float, reference: str
) -> None:
    """Print and record the worst of all samples of one output, and whether it is within the threshold."""
    worst = summaries.worst_metrics(records)
    nonfinite = sum(record["nonfinite"] for record in records)
    result = "PASS" if summaries.is_within(worst, nonfinite, threshold, False) else "FAIL"
    log.line()
    log.line(f"{output} against {reference}, the worst of {len(records)} samples")
    for metric in summaries.METRICS:
        log.line(f"{metric}: {format_metric(metric, worst[metric])}")
    if output == "hidden_state":
        errors = [record["worst_token_relative_l2"] for record in records]
        worst_at = max(range(len(errors)), key=lambda at: math.inf if errors[at] is None else errors[at])
        token, image = records[worst_at]["worst_token"], records[worst_at]["image"]
        log.line(f"worst token: {token} of {image} ({percent(errors[worst_at])})")
    if nonfinite:
        log.line(f"nonfinite: {nonfinite}")
    log.line(f"threshold: {round(threshold * 100, 9)}%")
    log.line(f"result: {result}")
    log.record(
        "accuracy",
        output=output,
        reference=reference,
        samples=len(records),
        **worst,
        nonfinite=nonfinite,
        threshold=threshold,
        result=result,
    )


def report_noise_floor(log: RunLog, outputs: Mapping[str, Outputs]) -> None:
    """Print and record how far the CPU's own float32 is from float64: no float32 can be expected to be nearer."""
    import numerics

    if not {"float32", "float64"} <= set(outputs):
        return
    log.line()
    for output, golden, float32 in zip(OUTPUTS, outputs["float64"], outputs["float32"], strict=True):
        errors = [numerics.compare(r, y)["relative_l2"] for r, y in zip(golden, float32, strict=True)]
        worst = None if None in errors else max(error for error in errors if error is not None)
        log.line(f"noise floor of {output}: {percent(worst)} (relative_l2 of the CPU's float32 against float64)")
        log.record("noise_floor", output=output, relative_l2=worst, samples_relative_l2=errors)


def format_metric(metric: str, value: float | None) -> str:
    if metric in ("relative_error", "relative_l2", "nmse"):
        return percent(value)
    if value is None:
        return "no error" if metric == "sqnr_db" else "not finite"
    return {"sqnr_db": f"{value:.1f}", "top5_match": f"{value:.0%}", "one_minus_cosine": f"{value:.3g}"}.get(
        metric, f"{value:.6f}"
    )


if __name__ == "__main__":
    options.run(main)
