"""One training step on the short cut against the same step through torch.func.jvp, in one run.

    python -m benchmarks.step [--json] [--model vit_small_patch16_224] [--model ...] [--last-blocks 1] [--whole 3] [--memory] [--constants-gib 4]

Trained are the last blocks, the final norm and the head. The ways start from the same cached tokens at the entrance of the
first trained block, so the frozen prefix counts for none of them. ``--whole N`` also makes N steps of the whole tangent model
from the pictures, without a cache. The repetitions are interleaved, and their median is taken. A way makes two steps at a
time, of which the second counts: in training a step follows one of its own kind. On a shared machine the times move a lot,
their ratio less. The load average and the quartiles of the ratio are given with it. With more than one block our step is
measured three ways. They are: the constants that ``--constants-gib`` keeps, all constants kept (``kept``), and those of the
batch made anew (``recomputed``). ``--memory`` makes each way's
step once more in a process of its own and gives how far its resident memory grew.

Weights and pictures are random: nothing is downloaded, and the time of a step does not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

# On a busy machine a thread that spins at a barrier waits for one that is not scheduled. The way with the smaller matrices
# suffers most. To be set before torch is loaded; it holds for all ways. OMP_WAIT_POLICY=active undoes it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import timm
import torch

from benchmarks.floor import floor_of, measure_rates
from benchmarks.ways import FuncJvp, Problem, logits_of, problem, training_step
from taft_ray.tangent.options import PREPARED_BUDGET

DEFAULT_MODEL = "vit_small_patch16_224"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurements of one model. Times are medians of ``repetitions``, in milliseconds per step; a ratio is another way's time over ours."""

    model: str
    last_blocks: int
    batch: int
    constants_gib: float
    tokens: int
    threads: int
    wait_policy: str  # OMP_WAIT_POLICY
    load: float  # the machine's load average when the measurement began
    repetitions: int
    ours_ms: float
    func_jvp_ms: float
    ratio: float  # median over median
    ratio_range: tuple[float, float]  # quartiles of the ratio of neighbouring repetitions
    cpu_ratio: float  # the same of CPU time over all threads, which other programs disturb less
    kept_ms: float | None  # of more than one block
    recomputed_ms: float | None  # of more than one block
    whole_ms: float | None  # with --whole
    whole_ratio: float | None
    floor_ms: float | None  # of one block
    floor: dict[str, float] | None  # its parts, and the machine's rates
    memory_mib: dict[str, float] | None  # with --memory
    difference: float  # of the two ways' tangents, relative to the largest value
    torch: str
    timm: str


def measure(
    model: str,
    *,
    last_blocks: int,
    batch: int,
    classes: int,
    constants_gib: float,
    threads: int,
    repetitions: int,
    whole: int,
    memory: bool,
) -> Measurement:
    """All ways on one model, interleaved."""
    load = os.getloadavg()[0]
    torch.set_num_threads(threads)
    names = ("ours", "func_jvp") if last_blocks == 1 else ("ours", "kept", "recomputed", "func_jvp")
    memories = None
    if memory:  # first: of many blocks a way takes gigabytes, and here they would all be held
        memories = {
            way: peak_memory(way, model, last_blocks, batch, classes, constants_gib, threads)
            for way in (*names, *(("whole",) if whole else ()))
        }
    given = problem(model, last_blocks=last_blocks, batch=batch, classes=classes, budget=int(constants_gib * 2**30))
    difference = check_agreement(given)
    steps = {way: training_step(given, logits_of(way, given)) for way in names}
    for step in steps.values():
        step()  # warm-up: Adam's state, torch.func's decompositions
    rounds = [{way: second_of(step) for way, step in steps.items()} for _ in range(repetitions)]
    clock, cpu = ({way: statistics.median(times[way][kind] for times in rounds) for way in names} for kind in (0, 1))
    quartiles = statistics.quantiles([times["func_jvp"][0] / times["ours"][0] for times in rounds], n=4)
    whole_s = whole_model_seconds(given, whole) if whole else None
    floor, rates = (floor_of(given.tm, batch=batch, tokens=given.tokens.shape[1]), measure_rates())
    return Measurement(
        model=model,
        last_blocks=last_blocks,
        batch=batch,
        constants_gib=constants_gib,
        tokens=given.tokens.shape[1],
        threads=threads,
        wait_policy=os.environ["OMP_WAIT_POLICY"],
        load=round(load, 1),
        repetitions=repetitions,
        ours_ms=round(1e3 * clock["ours"], 2),
        func_jvp_ms=round(1e3 * clock["func_jvp"], 1),
        ratio=round(clock["func_jvp"] / clock["ours"], 2),
        ratio_range=(round(quartiles[0], 2), round(quartiles[2], 2)),
        cpu_ratio=round(cpu["func_jvp"] / cpu["ours"], 2),
        kept_ms=round(1e3 * clock["kept"], 1) if "kept" in clock else None,
        recomputed_ms=round(1e3 * clock["recomputed"], 1) if "recomputed" in clock else None,
        whole_ms=None if whole_s is None else round(1e3 * whole_s, 1),
        whole_ratio=None if whole_s is None else round(whole_s / clock["ours"], 1),
        floor_ms=round(1e3 * floor.seconds(rates), 2) if last_blocks == 1 else None,
        floor={**asdict(floor), **asdict(rates)} if last_blocks == 1 else None,
        memory_mib=memories,
        difference=difference,
        torch=torch.__version__,
        timm=timm.__version__,
    )


def second_of(step: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The times of the second of two steps: in training one follows another of its own kind.

    Another way's step would leave neither caches nor the heap as it finds them.
    """
    step()
    return step()


def check_agreement(given: Problem) -> float:
    """How far our tangent is from torch.func.jvp's on the first pictures, relative to the largest value."""
    few = torch.arange(min(8, given.batch))
    probe = given.tm.zero_delta().map(lambda value: torch.randn_like(value) * 0.02)
    with torch.no_grad():
        expected = FuncJvp(given).tangent(few, probe)[1]
        ours = given.tm.tangent(given.tm.prepare(given.tokens[few]), probe)
    difference = float((ours - expected).abs().max() / expected.abs().max())
    if not difference < 1e-3:
        raise AssertionError(f"the two ways disagree by {difference:.2g}: there is nothing to compare")
    return difference


def whole_model_seconds(given: Problem, repetitions: int) -> float:
    step = training_step(given, logits_of("whole", given))
    step()
    return statistics.median(step()[0] for _ in range(repetitions))


def peak_memory(
    way: str, model: str, last_blocks: int, batch: int, classes: int, constants_gib: float, threads: int
) -> float:
    """MiB by which the resident memory of a process grew over its first two steps and what they keep of the pictures."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (way, model, last_blocks, batch, classes, constants_gib, threads))


def _growth(
    way: str, model: str, last_blocks: int, batch: int, classes: int, constants_gib: float, threads: int
) -> float:
    torch.set_num_threads(threads)
    given = problem(model, last_blocks=last_blocks, batch=batch, classes=classes, budget=int(constants_gib * 2**30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = training_step(given, logits_of(way, given))
    step()
    step()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description="one training step: the short cut against torch.func.jvp"
    )
    parser.add_argument(
        "--model",
        action="append",
        help=f"a timm vision transformer ({DEFAULT_MODEL}); NAME@token for another global_pool than its own",
    )
    parser.add_argument("--last-blocks", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--constants-gib",
        type=float,
        default=PREPARED_BUDGET / 2**30,
        help="of memory that our way keeps constants in (%(default)g); 0 keeps none",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--whole", type=int, default=0, help="steps of the whole tangent model without a cache")
    parser.add_argument("--memory", action="store_true", help="the growth of resident memory, a way")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.repetitions < 2 or not options.constants_gib >= 0:
        parser.error("expected --repetitions >= 2 and --constants-gib >= 0")
    measured = [
        measure(
            model,
            last_blocks=options.last_blocks,
            batch=options.batch,
            classes=options.classes,
            constants_gib=options.constants_gib,
            threads=options.threads,
            repetitions=options.repetitions,
            whole=options.whole,
            memory=options.memory,
        )
        for model in options.model or [DEFAULT_MODEL]
    ]
    if options.json:
        print(json.dumps({"step": [asdict(result) for result in measured]}))
        return
    print(f"one step (forward, backward, Adam), batch {options.batch}, {options.threads} threads, medians")
    for result in measured:
        print_readably(result)


def print_readably(result: Measurement) -> None:
    low, high = result.ratio_range
    print(f"{result.model}, last {result.last_blocks}")
    print(f"  ours              {result.ours_ms:10.1f} ms")
    print(
        f"  torch.func.jvp    {result.func_jvp_ms:10.0f} ms   {result.ratio:.1f} times ours (quartiles {low:.1f}-{high:.1f}); "
        f"{result.cpu_ratio:.1f} times its CPU time"
    )
    for how, milliseconds in (("all kept", result.kept_ms), ("recomputed", result.recomputed_ms)):
        if milliseconds is not None:
            print(
                f"  ours, {how:10}  {milliseconds:10.0f} ms   torch.func.jvp {result.func_jvp_ms / milliseconds:.2f} times"
            )
    if result.whole_ms is not None:
        print(f"  whole model       {result.whole_ms:10.0f} ms   {result.whole_ratio:.0f} times ours")
    if result.floor_ms is not None:
        print(
            f"  floor             {result.floor_ms:10.1f} ms   {result.ours_ms / result.floor_ms:.1f} floors are ours"
        )
    for way, size in (result.memory_mib or {}).items():
        print(f"  memory of {way:12} {size:8.0f} MiB")


if __name__ == "__main__":
    main()
