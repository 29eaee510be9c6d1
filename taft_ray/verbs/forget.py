"""The verbs of forgetting: have the composer drop and purge, have shards fitted again, and fetch the certificate.

The driver holds no truth: killed at any instant, the next forget (of anything) finishes what it left. Ray is started, or
joined, for fits alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taft_ray.composer.asking import keep_beside
from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import IntegrityError, ObjectMissing, StorageError, TaftError
from taft_ray.log import operation
from taft_ray.plans.forget import DEFAULT_MODE, default_mode
from taft_ray.plans.gather import promises
from taft_ray.plans.spec import RunSpec
from taft_ray.progress import Report, silent
from taft_ray.run.address import run_address
from taft_ray.run.spec import run_spec
from taft_ray.run.state import damage_of
from taft_ray.run.turn import Held, Turn, Turns
from taft_ray.storage import Store, sweep_copies
from taft_ray.verbs import retention
from taft_ray.verbs.composer import composer_of, in_cluster

if TYPE_CHECKING:
    from taft_ray.workers.shard_worker import ShardWorker

__all__ = ["Selection", "estimate", "forget", "forget_due"]

_PATIENCE_S = 30.0  # with another command, before a request is made beside it
_LOOK_S = 0.1  # between two looks at what replicas that serve the run have acknowledged
_FITS = 5  # tries of one shard that other requests keep changing


@operation("estimate")
def estimate(
    run: str, selection: Selection, mode: str | None = None, *, gpu_hour_price: float | None = None
) -> dict[str, Any]:
    """Tell what a forget would touch and take; nothing happens, and nothing is started."""
    composer = Composer(run_address(run))
    return composer.estimate(selection, mode or default_mode(composer.record.spec), gpu_hour_price)


@operation("forget")
def forget(
    run: str,
    selection: Selection,
    *,
    mode: str | None = None,
    deadline: float | None = None,
    gpu_hour_price: float | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Forget samples: drop at once, purge, fit again if asked, and the certificate.

    With a deadline (unix seconds) the request is kept and runs later, together with others that touch its shards. The answer
    says when: {"request", "waiting": True, "runs_at", "deadline", "runs_with": [requests]}.
    Finishes what a crash interrupted, and what is due, on the way. The answer names the earlier requests that answer for some of
    the ids: "forgotten_before", and "repeated" where nothing else was asked. With "repeated", the certificate is that of an
    earlier request.
    """
    run = run_address(run)
    with ExitStack() as joined:
        with ExitStack() as turn:
            try:
                spec = run_spec(Store(run))
                mine = turn.enter_context(_turn(run, _too_long()))
                mode = mode or default_mode(spec)
                composer = Composer(run)
                if deadline is None and in_cluster():  # there is one that has the sums in memory
                    composer.check_request(selection, mode)
                    composer = _join(joined, run)
                asked = composer.request_forget(selection, mode, deadline)
            except (IntegrityError, StorageError):
                _keep_for_later(run, selection, mode or DEFAULT_MODE)
                raise
            name = asked["request"]
            before = {"forgotten_before": asked["forgotten_before"]} if asked["forgotten_before"] else {}
            if asked["done"]:
                return {**composer.certificate(name), "repeated": True, **before}
            if asked["waiting"]:
                return {**_promise(asked), **before}
            done = {}
            if mine is not None:
                done = _carry_out(run, spec, composer, mine, gpu_hour_price, report, name)
        if name not in done:  # another command waits for fits, and it or this one carries the request out after that
            with _turn(run, lambda _: composer.is_forgotten(name)) as mine:
                if mine is not None:
                    done = _carry_out(run, spec, composer, mine, gpu_hour_price, report, name)
        return {**(done[name] if name in done else composer.certificate(name)), **before}


@operation("forget --due")
def forget_due(run: str, *, gpu_hour_price: float | None = None, report: Report = silent) -> dict[str, Any]:
    """Carry out every request whose time has come or that was interrupted: for a timer to call.

    {"certificates": [...]}, and where requests wait on {"waiting": [{"request", "samples", "runs_at", "deadline"}]}, the next one
    first. Where deadlines passed before they were met {"ok": False, "late": [{"request", "deadline",
    "carried_out"}]}. Where the date for the key of the id hashes has passed, {"to_do": [sentence]}; nothing is destroyed.
    """
    run = run_address(run)
    spec = run_spec(Store(run))
    with ExitStack() as joined:
        composer = Composer(run)
        due = composer.due_requests()
        began, before = time.time(), composer.snapshot()
        promised = {one.request: one.deadline for one in before.requests.values() if one.deadline and not one.forgotten}
        if due and in_cluster():
            composer = _join(joined, run)
        done: dict[str, dict[str, Any]] = {}
        if due:
            with _turn(run) as mine:
                assert mine is not None
                done = _carry_out(run, spec, composer, mine, gpu_hour_price, report)
        carried_out = {request for request in promised if request in done or composer.is_forgotten(request)}
        waiting = promises(composer.snapshot() if due else before)
    late = [
        {"request": request, "deadline": deadline, "carried_out": request in carried_out}
        for request, deadline in promised.items()
        if deadline < (time.time() if request in carried_out else began)
    ]
    overdue = retention.told(before, time.time())["passed"]
    return {
        "certificates": list(done.values()),
        **({"ok": False, "late": late} if late else {}),
        **({"to_do": [retention.way_out(run)]} if overdue else {}),
        **({"waiting": waiting} if waiting else {}),
    }


@contextmanager
def _turn(run: str, unless: Callable[[Turn], bool] = lambda turn: False) -> Iterator[Held | None]:
    """`Turns.turn`, where a wait is told."""
    from taft_ray.orchestration.waiting import told_while

    with ExitStack() as holding:
        with told_while(run, "forget", "another command that carries out requests", lambda: True):
            mine = holding.enter_context(Turns(Store(run)).turn(unless))
        yield mine


def _too_long() -> Callable[[Turn], bool]:
    """Whether to ask while another command is at work: it waits for fits or replicas, or has been at it for long."""
    since: dict[str, float] = {}
    return lambda turn: turn.waits or time.monotonic() - since.setdefault(turn.holder, time.monotonic()) > _PATIENCE_S


def _join(joined: ExitStack, run: str) -> Composer:
    """Join the cluster until the end of a verb; its composer of the run."""
    from taft_ray.orchestration import session

    joined.enter_context(session.connected())
    return composer_of(run)


def _keep_for_later(run: str, selection: Selection, mode: str) -> None:
    """IntegrityError that says where a request is kept whose run cannot be read; nothing where the run is not the reason."""
    damage = damage_of(run)
    if damage is None:
        return
    where = keep_beside(Store(run), selection.ids, mode)
    if where is None:
        raise IntegrityError(f"{damage}. The request could not be recorded: make it again then") from damage
    more = selection.owners or selection.shards or selection.with_identical
    only = " It has the ids alone: ask for owners, shards and identical pictures again then." if more else ""
    raise IntegrityError(
        f"{damage}. The request is kept in {where}: once the run is whole, taft-ray forget {run} --due carries it out.{only}"
    ) from damage


def _promise(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: asked[name] for name in ("request", "mode", "waiting", "runs_with")},
        **{name: datetime.fromtimestamp(asked[name], UTC).isoformat() for name in ("runs_at", "deadline")},
    }


def _carry_out(
    run: str,
    spec: RunSpec,
    composer: Composer,
    turn: Held,
    price: float | None,
    report: Report,
    needed: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Carry out the requests that are due: every shard is fitted once, whoever waits for it. Certificates by request.

    Damage that is in the way of one does not hold up the others. It is raised at the end, where all are ``needed`` (None) or
    this one is.
    """
    # asked now: others may have carried some out; a folder may have been exchanged under a composer that stayed warm
    requests = composer.due_requests([] if needed is None else [needed])
    standing, stuck = [], {}
    for request in requests:
        try:
            standing.append(composer.resume_forget(request))
        except (ObjectMissing, IntegrityError) as error:  # the others are carried out all the same
            stuck[request] = error
    copies = _sweep(run) if standing else {}
    to_fit: dict[int, bool] = {}  # shard: whether a warm start will do
    for asked in standing:
        for shard in asked["retrain"]:
            to_fit[shard] = to_fit.get(shard, True) and asked["mode"] == "resolve"
    if to_fit:
        turn.waits()
    told = {
        "retrain_seconds": _fit_each(run, spec, composer, to_fit, report) if to_fit else None,
        "local_copies": copies,
        "gpu_hour_price": price,
        "carried_out_with": [asked["request"] for asked in standing],
    }
    for asked in standing:  # all are waited for at the same time: each began when its cache was rewritten
        waited = False
        while (seconds := composer.withdraw(asked["request"])) > 0:
            turn.waits()
            report("withdraw", 0, 1)
            waited = True
            time.sleep(min(seconds, _LOOK_S))
        if waited:
            report("withdraw", 1, 1)
    done = {asked["request"]: composer.conclude_forget(asked["request"], told) for asked in standing}
    for request in requests:
        if request in stuck and (needed is None or request == needed):
            raise IntegrityError(
                f"{stuck[request]}. Request {request} is recorded and stands, and its samples may not come back. "
                f"Run taft-ray repair {run}, which mends what it can; then taft-ray forget {run} --due carries the request out"
            )
    return done


def _fit_each(run: str, spec: RunSpec, composer: Composer, to_fit: Mapping[int, bool], report: Report) -> float:
    """Have these shards fitted again on the warm worker; seconds. The actor's start is not the retrain's time."""
    from taft_ray.orchestration import session
    from taft_ray.orchestration.actors import worker_for

    with session.connected(report):
        worker = worker_for(run, spec, composer.class_count(), composer.snapshot().per_lane)
        worker.ready()
        began = time.perf_counter()
        for done, (shard, resolve) in enumerate(sorted(to_fit.items())):
            report("retrain", done, len(to_fit))
            fit_again(composer, worker, shard, resolve)
        report("retrain", len(to_fit), len(to_fit))
        return time.perf_counter() - began


def fit_again(composer: Composer, worker: ShardWorker, shard: int, resolve: bool = False) -> None:
    """Have a shard fitted once; one whose cache turns out to be damaged is in quarantine then, and is not."""
    for _ in range(_FITS):
        task = composer.task_for(shard, resolve)
        if task is None:
            return
        try:
            if composer.finished(worker.fit(task, None, "retrain")):
                return
        except (ObjectMissing, IntegrityError) as error:
            if composer.examine([shard]):
                return
            if isinstance(error, IntegrityError):
                raise
            continue  # another request purged what the task names: ask again, and fit what is left
    raise TaftError(
        f"shard {shard} changed under {_FITS} fits in a row: others forget in it; run the same command again"
    )


def _sweep(run: str) -> dict[str, Any]:
    """Remove what processes that have died left of remote objects on disks, of every node where there are several."""
    if not in_cluster():
        return {"nodes": 1, "removed": len(sweep_copies())}
    from taft_ray.orchestration import session
    from taft_ray.orchestration.actors import release_worker
    from taft_ray.orchestration.nodes import sweep_nodes

    with session.connected():
        release_worker(run)
        return sweep_nodes()
