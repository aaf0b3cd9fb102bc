"""Compare a vision encoder's outputs on a device with a reference on the CPU, sample by sample."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import options
import summaries
from runlog import RunLog, percent

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from common import Outputs
    from images import Sample

SCRIPT = "accuracy_run.py"
EXAMPLES = """examples:
  python accuracy_run.py --model demo                        no NPU, no hub: float32 against float64
  python accuracy_run.py --device npu                        the ViT-giant CLIP, NPU against CPU
  python accuracy_run.py --model facebook/webssl-mae700m-full2b-224 --device npu
  python accuracy_run.py --device npu --image photos/ --samples 32
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
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    with options.open_log(args, SCRIPT, "accuracy.log") as log:
        options.set_environment(args.device, args.numerics)
        with options.import_errors():
            import torch

            import common
            import encoders
            import images
            import session

        with session.start(log, args.device, args.dtype, args.numerics) as running:
            samples = images.sample_exactly(images.find_samples(args.image), args.samples, args.seed)
            decoded = [sample.load() for sample in samples]
            encoder = encoders.load_encoder(args.model, args.weights, args.hub, args.revision, args.seed)
            pixel_values = [encoder.preprocess(image).unsqueeze(0) for image in decoded]

            # Comparing a thing with itself proves nothing: float32 on the CPU is held to float64.
            cpu = torch.device("cpu")
            itself = (running.device, running.dtype) == (cpu, torch.float32)
            reference_dtype = torch.float64 if itself else torch.float32
            log.line(f"Model: {encoder.model} ({encoder.weights_source})")
            log.line(f"Reference: cpu, {common.dtype_name(reference_dtype)}")
            references = forward_all(encoder.module, pixel_values, cpu, reference_dtype)
            with running.numerics.watch():
                candidates = forward_all(encoder.module, pixel_values, running.device, running.dtype)

            running.record(encoder, candidates[0][0], encoder.weights_sha256())
            records = [
                record
                for sample, reference, candidate in zip(samples, references, candidates, strict=True)
                for record in compare_sample(log, sample, reference, candidate)
            ]
            for output in OUTPUTS:
                of_output = [record for record in records if record["output"] == output]
                report_output(log, output, of_output, args.threshold, common.dtype_name(reference_dtype))
    return options.EXIT_OK


def forward_all(
    module: nn.Module, pixel_values: Sequence[Tensor], device: torch.device, dtype: torch.dtype
) -> list[Outputs]:
    """Move the encoder to the device and dtype, in place, and run it on each pixel_values [1, 3, H, W]."""
    from tqdm import tqdm

    import common

    common.place(module, device, dtype)
    bar = tqdm(pixel_values, f"{device} {common.dtype_name(dtype)}", unit="image", disable=None)
    return [common.encode(module, pixels.to(device, dtype)) for pixels in bar]


def compare_sample(log: RunLog, sample: Sample, reference: Outputs, candidate: Outputs) -> list[dict[str, Any]]:
    """Record the metrics of both outputs of one image, [1, D] and [1, T, C] each."""
    import common
    import numerics

    records = []
    for output, r, y in zip(OUTPUTS, reference, candidate, strict=True):
        on_host = y.cpu()
        record: dict[str, Any] = {
            "image": sample.name,
            "image_sha256": sample.sha256(),
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
    log.line(f"{output}, the worst of {len(records)} samples")
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
