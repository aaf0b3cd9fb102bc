"""Every model at its smallest, with random weights, on the simulated NPU: python tests/by_hand/sweep_models.py --help

For each architecture: build it without memory (meta), load it with random weights, run it on the CPU and on the
simulated NPU, hold the NPU's outputs to the accuracy run's bound, and hold the CPU's to those of the model that its
library builds and loads in its own way, with the same weights: a buffer that was lost on the way would show. A
transformers model is loaded from a checkpoint that its own class has saved, too, with all that is beside the encoder.

Each model has a process of its own, forked from one that has imported the libraries. pytest does not collect this
file; tests/test_encoders.py runs a sample of it.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: a model has one process, and there are several
os.environ.setdefault("SIMULATED_NPU_MEMORY_MB", "8192")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # the simulated NPU is imported in the children alone
sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from helpers import model_checks
from helpers.model_checks import DifferenceError, Result
from helpers.transformers_families import FAMILIES, Family

from common.cli.options import ModelChoice
from common.encoder import loading
from common.errors import UserError, first_line

SECONDS_A_MODEL = 300
MILLION = 1_000_000
OUTCOMES = ("works", "no encoder", "refused", "differs", "traceback")


# -------------------------------------------------------------------------------------------------------- the processes
@dataclass(frozen=True)
class Job:
    """A model, and what gives its result."""

    library: str
    name: str
    run: Callable[[], Result]


def start(job: Job) -> Callable[[], Result | None]:
    """Run a job in a child; what is returned gives its result once it has one."""
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS_A_MODEL)
        found = replace(outcome(job), seconds=round(time.monotonic() - started, 2))
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(asdict(found)))
        os._exit(0)
    os.close(writing)

    def poll() -> Result | None:
        finished, status = os.waitpid(child, os.WNOHANG)
        if not finished:
            return None
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        if text:
            return Result(**json.loads(text))
        return Result(job.library, job.name, "traceback", f"ended with {os.waitstatus_to_exitcode(status)}")

    return poll


def outcome(job: Job) -> Result:
    """A job's result, whatever happens."""
    try:
        return job.run()
    except UserError as error:
        return Result(job.library, job.name, "refused", first_line(error))
    except DifferenceError as error:
        return Result(job.library, job.name, "differs", str(error))
    except Exception as error:  # what the sweep is there to find
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(where.filename).name}:{where.lineno}"
        return Result(job.library, job.name, "traceback", f"{type(error).__name__} at {at}: {first_line(error)}")


def run_family(family: Family, explained: bool) -> Result:
    """A family's result; one that is no encoder has to be refused."""
    try:
        found = model_checks.check_family(family, explained)
    except UserError as error:
        kind = "no encoder" if family.no_encoder else "refused"
        return Result("transformers", family.name, kind, first_line(error))
    return replace(found, outcome="differs", reason="is no encoder, and runs") if family.no_encoder else found


def run_all(jobs: Iterator[Job], processes: int) -> Iterator[Result]:
    """The results of the jobs as they come, printed on the way."""
    running: list[Callable[[], Result | None]] = []
    exhausted = False
    gc.freeze()  # the children share what this process has imported
    while running or not exhausted:
        while not exhausted and len(running) < processes:
            job = next(jobs, None)
            exhausted = job is None
            if job is not None:
                running.append(start(job))
        for poll in list(running):
            found = poll()
            if found is not None:
                running.remove(poll)
                print_result(found)
                yield found
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------------------------ the table
def print_result(result: Result) -> None:
    if result.outcome == "built":
        return
    shapes = f"{list(result.embedding)} {list(result.hidden_state)}" if result.embedding else ""
    errors = f"{result.conventional:.0e} {result.npu:.0e}" if result.npu is not None else ""
    print(
        f"{result.library:<12} {result.name:<44} {result.params / MILLION:>7.1f}M {result.seconds:>6.1f}s "
        f"{result.outcome:<10} {errors:<13} {shapes}{result.reason}",
        flush=True,
    )


def print_counts(results: Sequence[Result], wanted: int) -> None:
    built = [result for result in results if result.outcome == "built"]
    if built:
        print(f"\ntimm: {len(built)} architectures built on meta")
    run = [result for result in results if result.outcome != "built"]
    for library in sorted({result.library for result in run}):
        of_library = [result for result in run if result.library == library]
        counts = Counter(result.outcome for result in of_library)
        encoders_run = len(of_library) - counts["no encoder"]
        print(f"\n{library}: {len(of_library)} run")
        for kind in OUTCOMES:
            share = f" ({counts[kind] / encoders_run:.1%})" if encoders_run and kind != "no encoder" else ""
            print(f"  {kind:<10} {counts[kind]:>5}{share}")
        worst = max((result.conventional or 0.0 for result in of_library), default=0.0)
        print(f"  furthest from the conventionally built model: {worst:.1e}")
    print(f"\n{len(run)} of {wanted} were run in the time given")


def warm_up(library: str | None) -> None:
    """Import what the children need, once."""
    if library != "transformers":
        model_checks.photo(loading.load_encoder(ModelChoice("timm/test_vit", "random")))
    if library != "timm":
        with tempfile.TemporaryDirectory() as folder:
            FAMILIES[0].config.save_pretrained(folder)
            model_checks.photo(loading.load_encoder(ModelChoice(folder, "random")))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=("timm", "transformers"), help="only of this one (default: both)")
    parser.add_argument("--name", nargs="+", default=["*"], metavar="PATTERN", help="such as 'vit_*'; default: all")
    parser.add_argument(
        "--max-params", type=float, default=100.0, metavar="M", help="in millions; larger ones are built, not run"
    )
    parser.add_argument("--explain", action="store_true", help="what --golden and --explain compute, too: takes longer")
    parser.add_argument("--build-only", action="store_true", help="build on meta, run nothing")
    parser.add_argument(
        "--seconds", type=float, default=1800.0, help="begin no model after so many (default: %(default)s)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    warm_up(args.library)
    deadline = time.monotonic() + args.seconds

    def is_chosen(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in args.name)

    def run(jobs: Sequence[Job]) -> list[Result]:
        return list(run_all((job for job in jobs if time.monotonic() < deadline), args.processes))

    jobs: list[Job] = []
    results: list[Result] = []
    if args.library != "timm":
        chosen = [each for each in FAMILIES if is_chosen(each.name)]
        jobs += [Job("transformers", each.name, partial(run_family, each, args.explain)) for each in chosen]
    if args.library != "transformers":
        import timm

        names = [name for name in timm.list_models() if is_chosen(name)]
        results = run([Job("timm", name, partial(model_checks.build_timm, name)) for name in names])
        built = [
            result for result in results if result.outcome == "built" and result.params <= args.max_params * MILLION
        ]
        smallest_first = [result.name for result in sorted(built, key=lambda result: result.params)]
        jobs += [Job("timm", name, partial(model_checks.check_timm, name, args.explain)) for name in smallest_first]
    results += run(jobs if not args.build_only else [])
    print_counts(results, len(jobs))
    return 1 if any(result.outcome in ("differs", "traceback") for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
