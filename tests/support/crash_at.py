"""Kill a process at every durable write of a whole run, and let another finish: one JSON line a kill.

    python crash_at.py FOLDER PHASE…        phases: those of a chain, each on what the one before left

For n = 0, 1, 2, … a forked child does the phase and kills itself (signal 9) before its n-th change of storage. Another
child dies when the n-th is staged beside its place but not put there. Dying after a change leaves what dying before the next one
leaves. The count goes on until a child survives. So every durable write is met, whatever writes there are. Each time
an undisturbed child then does the same phase again, and tells what the run is then.

Nothing is run in the parent, so that every child forks from a clean one.
"""

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from folder import holders, plain_forget, shard_of, state_of
from plain import plain_add, plain_train
from tiny import CLASSES, MODEL, SIZE, sample_id, write_parquet

from taft_ray.composer.composer import Composer
from taft_ray.data import sample_key
from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.part_writer import PartWriter
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Store
from taft_ray.storage.local import LocalFolder
from taft_ray.verbs.gc import gc
from taft_ray.workers.row_worker import RowWorker
from taft_ray.workers.shard_worker import ShardWorker

PICTURES, SHARDS = 24, 3
MORE = range(PICTURES - 6, PICTURES + 9)  # what is added: some of it known or forgotten, some of a new class
TANGENT, ADDITIVE = ("train", "retrain", "drop", "resolve"), ("sum", "subtract", "drop-rows", "add")
BOTH = ("both", "subtract-both", "retrain-both")  # a run of two tiers
ASKED = Privacy(epsilon=3.0, delta=1e-4, steps=2)
PRIVATELY = {  # how each chain of private runs fits
    "private": {"solver": "dp-gd", "privacy": ASKED},
    "private-rows": {"solver": "dp-additive", "features": 48, "privacy": replace(ASKED, mean_share=0.1)},
    "sampled": {"solver": "dp-gd", "privacy": replace(ASKED, sampling_rate=0.5)},
}
PRIVATE = [(phase, f"retrain-{phase}") for phase in PRIVATELY]  # each run has keys of its own, and so bits of its own
CHAIN = {phase: chain for chain in (TANGENT, ADDITIVE, BOTH, *PRIVATE) for phase in chain}
MODES = {
    "drop-rows": "drop",
    "subtract-both": "subtract",
    "retrain-both": "retrain",
    **{second: "retrain" for _, second in PRIVATE},
}  # where a phase is not named by its own
BEFORE, STAGED = "before", "staged"


def victims(mode: str) -> list[str]:
    """The samples that a phase forgets: two of one shard by retrain, one of another each by drop and by resolve."""
    if mode == "add":
        return []
    known = {"retrain": (0, 2), "drop": (1, 1), "resolve": (2, 1), "subtract": (0, 2), "drop-rows": (1, 1)}
    shard, count = (
        known | {"subtract-both": (0, 2), "retrain-both": (1, 1), **{second: (1, 1) for _, second in PRIVATE}}
    )[mode]
    return [name for name in map(sample_id, range(PICTURES)) if shard_of(name, SHARDS) == shard][:count]


# --- what is done, in a child


def make_data(home: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(MODEL, img_size=SIZE).state_dict(), home / "weights.safetensors")
    write_parquet(home / "data", range(PICTURES))
    write_parquet(home / "more", MORE)
    file = home / "more" / "part-0.parquet"
    table = pq.read_table(file)
    labels = pa.array(["dog"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), file)


def do(phase: str, home: Path, run: Path) -> None:
    if phase in ("train", "sum", "both", *PRIVATELY):
        values = {"model": MODEL, "weights": str(home / "weights.safetensors"), "image_size": SIZE, "epochs": 3}
        values |= {
            "train": {"compose": "gram"},
            "sum": {"solver": "additive", "features": 48},
            "both": {"features": 48, "trainable": "head"},
            **{name: {"compose": "mean", "loss": "ce", "classes": CLASSES, **fit} for name, fit in PRIVATELY.items()},
        }[phase]
        plain_train(run, RunSpec(data=str(home / "data"), shards=SHARDS, **values))
    elif phase == "add":
        plain_add(run, home / "more", shards=2)
    else:
        plain_forget(run, victims(phase), MODES.get(phase, phase))


def facts(run: Path, phase: str) -> dict[str, Any]:
    """The facts that must not depend on where a process died."""
    gc(str(run))
    chain = CHAIN[phase]
    forgotten = [name for mode in chain[1 : chain.index(phase) + 1] for name in victims(mode)]
    state, store = state_of(run), Store(str(run))
    certificates = {}
    for name, request in state.requests.items():
        assert request.forgotten is not None, name
        told = json.loads(store.read(request.forgotten.certificate.key))
        told.setdefault("beside", None)
        same = (
            "beside",
            "mode",
            "samples",
            "shards",
            "composed_before",
            "composed_after",
            "deltas_removed",
            "manifest_after",
        )
        fits = [(fit["shard"], fit["generation"], fit["delta"]) for fit in told["retrained"]]
        certificates[name] = {
            **{field: told[field] for field in (*same, "id_hashes", "still_listed_after_purge")},
            "retrained": fits,
            "steps": [step["step"] for step in told["steps"]],
            "removed": sorted(entry["key"] for entry in told["objects_removed"]),
        }
    composer = Composer(str(run))
    private = chain in PRIVATE
    if private:  # the bits are of the keys
        for told in certificates.values():
            del told["composed_before"], told["composed_after"], told["deltas_removed"], told["removed"][:]
            told["retrained"] = [fit[:2] for fit in told["retrained"]]
    charged = Counter(f"{one.shard}/{one.generation}" for several in state.reservations.values() for one in several)
    return {
        "composed": {mode: not private and composer.composition.digest(mode) for mode in composer.record.spec.modes},
        "charged": charged,
        "problems": verify(str(run))["problems"],
        "certificates": certificates,
        "held": {name: found for name in forgotten if (found := holders(run, sample_key(name, 0)))},
    }


def role(phase: str) -> str:
    """Which process of a cluster would be writing: known by whose method is on the stack."""
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, PartWriter):
            return "prefix actor"
        if isinstance(owner, ShardWorker | RowWorker):
            return "lane" if phase in ("train", "sum", "both", "add", *PRIVATELY) else "retrain actor"
        if isinstance(owner, Composer):
            return "composer"
        frame = frame.f_back
    # the composer alone writes several parts at once, in threads of its own
    return "driver" if threading.current_thread() is threading.main_thread() else "composer"


def die_at(n: int, when: str, phase: str, tell: Callable[[dict[str, Any]], None]) -> None:
    """From now on this process is killed at its n-th change of storage."""
    count = -1

    def die(change: str, key: str) -> None:
        tell({"role": role(phase), "change": change, "key": key})
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(change: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(folder: LocalFolder, *args: Any) -> Any:
            nonlocal count
            count += 1
            if count != n:
                return real(folder, *args)
            key = next(str(arg) for arg in args if isinstance(arg, str))
            if when == BEFORE:
                die(change, key)
            put = mock.Mock(side_effect=lambda *_: die(change, key))
            with mock.patch("os.replace", put), mock.patch("os.link", put):
                return real(folder, *args)

        return call

    for change in ("write", "create", "upload", "delete"):
        setattr(LocalFolder, change, counted(change, getattr(LocalFolder, change)))


# --- processes


def child(action: Callable[[Callable[[dict[str, Any]], None]], None]) -> list[dict[str, Any]]:
    """Do something in a forked child; what it told, and as the last of it how it ended."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reading)
        status = 1
        try:
            action(lambda told: (os.write(writing, json.dumps(told).encode() + b"\n"), None)[1])
            status = 0
        except BaseException:
            os.write(writing, json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = [json.loads(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    return [*told, {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "status": status}]


def undisturbed(phase: str, home: Path, case: Path) -> dict[str, Any]:
    def action(tell: Callable[[dict[str, Any]], None]) -> None:
        do(phase, home, case / "run")
        tell(facts(case / "run", phase))

    told = child(action)
    if "error" in told[0] or told[-1]["status"]:
        raise RuntimeError(f"{phase}: {told}")
    return told[0]


def kill(phase: str, home: Path, before: Path, expected: dict[str, Any], n: int, when: str) -> dict[str, Any] | None:
    """Kill at the n-th change and finish; what was cut off, and what came of it. None when the process survived."""
    case = Path(shutil.copytree(before, home / "case"))

    def action(tell: Callable[[dict[str, Any]], None]) -> None:
        die_at(n, when, phase, tell)
        do(phase, home, case / "run")

    try:
        *told, end = child(action)
        if not told and end["status"] == 0:
            return None
        if end["signal"] != signal.SIGKILL:
            raise RuntimeError(f"{phase}, {when} {n}: {told}")
        return {
            "phase": phase,
            "n": n,
            "when": when,
            **told[0],
            "wrong": wrong(undisturbed(phase, home, case), expected),
        }
    finally:
        shutil.rmtree(case)


def enumerate_kills(phase: str, home: Path, before: Path, expected: dict[str, Any]) -> None:
    """Print a JSON line for every kill."""
    n, staged = 0, []
    while (found := kill(phase, home, before, expected, n, BEFORE)) is not None:
        print(json.dumps(found), flush=True)
        if found["change"] != "delete":  # of a deletion nothing is staged
            staged.append(n)
        n += 1
    for n in staged:
        print(json.dumps(kill(phase, home, before, expected, n, STAGED)), flush=True)


def wrong(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """How a run differs from the undisturbed one; its certificates may list more, which the killed process left."""
    found = [f"verify: {problem}" for problem in got["problems"]]
    found += [f"{name} is held by {where}" for name, where in got["held"].items()]
    if got["composed"] != expected["composed"]:
        found.append("another model")
    if got["charged"] != expected["charged"]:
        found.append(f"charged {got['charged']}, not {expected['charged']}")
    if got["certificates"].keys() != expected["certificates"].keys():
        found.append(f"certificates of {sorted(got['certificates'])}")
    for name, told in got["certificates"].items():
        wanted = expected["certificates"].get(name, told)
        found += [f"certificate {name}: {f}" for f in told if f != "removed" and told[f] != wanted[f]]
        if missing := set(wanted["removed"]) - set(told["removed"]):
            found.append(f"certificate {name} does not list {sorted(missing)}")
    return found


def main(home: Path, phases: Sequence[str]) -> None:
    child(lambda _: make_data(home))
    before = home / "nothing"
    before.mkdir()
    chain = CHAIN[phases[0]]
    for phase in chain[: 1 + max(map(chain.index, phases))]:
        after = Path(shutil.copytree(before, home / f"after-{phase}"))
        expected = undisturbed(phase, home, after)
        if phase in phases:
            enumerate_kills(phase, home, before, expected)
        before = after


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
