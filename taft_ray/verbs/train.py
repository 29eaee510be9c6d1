"""`train`: bring a run to where every shard with samples has a delta, and compose it. The main path of the package.

spec → activation cache → lanes → compose, each step skipped when the ledger has it
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from taft_ray.counting import plural, which
from taft_ray.data import check_index
from taft_ray.data.identical import say
from taft_ray.errors import DataError, TaftError, UsageError
from taft_ray.log import operation
from taft_ray.plans.facts import TrainingFinished
from taft_ray.plans.fold import replay
from taft_ray.plans.lane_resources import LaneResources
from taft_ray.plans.spec import RunSpec
from taft_ray.plans.state import EMPTY, RunState
from taft_ray.plans.train import lanes_for, lanes_of_rows, pending_shards
from taft_ray.progress import Report, silent
from taft_ray.run.address import data_address, run_address
from taft_ray.run.environment import run_environment
from taft_ray.run.record import Record
from taft_ray.run.secret import secret_to_read_in
from taft_ray.run.spec import is_run
from taft_ray.storage import Ledger, Store, digest_bytes, write_spec
from taft_ray.storage.probe import check_creates_once
from taft_ray.verbs.pinned import pinned, with_addresses
from taft_ray.verbs.status import status

if TYPE_CHECKING:
    from taft_ray.orchestration.actors import RemoteComposer
    from taft_ray.orchestration.lanes import Lanes
    from taft_ray.plans.additions import AdditionBegun
    from taft_ray.prefix.additions import More
    from taft_ray.prefix.passes import Indexed


@operation("train")
def train(
    run: str,
    spec: RunSpec,
    *,
    add: str | None = None,
    add_shards: int | None = None,
    monolithic: bool = False,
    lanes: int | None = None,
    fit_timeout: float | None = None,
    gpus: int | None = None,
    per_lane: LaneResources | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Bring a run to where every shard with samples has a delta, and compose it. Safe to call again at any time.

    Writes the spec, the activation cache and the deltas that are missing; repeats nothing that the ledger has.
    ``monolithic`` also trains one model over everything, on the same kind of worker, for comparison.

    add: more data for a run that exists. Its pictures that the run does not know become ``add_shards`` shards behind those
    that there are, by default as many of their size. Everything that the run has, or has forgotten, stays as it is.

    fit_timeout: seconds without a sign of life after which a fit is given up, and tried by another worker. By default it
    follows from the fits so far.

    gpus: how many GPUs the cluster may have, where an autoscaler starts them. By default its configuration says it.

    per_lane: what a worker of this run takes of the cluster, from now on; by default what was said before, which the run keeps.
    """
    if gpus is not None and gpus < 1:
        raise UsageError(f"expected gpus >= 1, got {gpus}; set --gpus")
    if fit_timeout is not None and not 0 < fit_timeout < math.inf:
        raise UsageError(f"expected fit_timeout > 0 seconds, got {fit_timeout}; set --fit-timeout")
    if lanes is not None and lanes < 1:
        raise UsageError(f"expected lanes >= 1, got {lanes}; set --lanes")
    if add_shards is not None and (add is None or add_shards < 1):
        raise UsageError(f"add_shards={add_shards}: expected at least 1, and --add with it")
    if monolithic and spec.lean:
        raise UsageError("an additive run without deltas is one model over everything already; leave --monolithic out")
    if monolithic and spec.privacy is not None:
        raise UsageError(
            "a comparison model over everything would spend privacy of every shard's samples once more; leave --monolithic out"
        )
    if add is not None and spec.privacy is not None and spec.privacy.unit == "owner":
        raise UsageError(
            "added data makes new shards, and an owner's samples would be in two of them; make another run for new owners"
        )
    began = time.time()
    run = run_address(run)
    store = Store(run)
    if add is not None and not is_run(store):
        raise UsageError(f"there is no run at {run} that could be added to; train it with --data first")
    from taft_ray.orchestration import places, session

    if per_lane is not None:
        places.check_lane_resources(per_lane)
    spec, notes = pinned(store, with_addresses(spec), report)
    from taft_ray.orchestration.prefix_pass import passes
    from taft_ray.prefix.passes import index_source

    with session.connected(report):
        places.check_device(spec.device, gpus, per_lane or _kept(store))
        # data that cannot be understood leaves no run behind
        source = None
        if not is_run(store):
            report("index", 0, 1)
            source = index_source(passes(), spec.data, spec.classes)
            check_index(source.rows, classes=source.classes, method=spec.assignment)
            check_delta(spec, source.rows.num_rows)
            report("index", 1, 1)
            if not store.local:
                check_creates_once(store)
        write_spec(store, spec.to_json())
        if spec.privacy is not None:
            from taft_ray.prefix import whitening

            whitening.keep(store, spec)
        training = replace(Training.of(run, spec, lanes, report, gpus, per_lane), source=source)
        training.begin(fit_timeout, per_lane)
        notes = (*notes, *training.want(None if add is None else data_address(add), add_shards))
        composed = training.finish(monolithic=monolithic)
        state = training.state()
        notes = (*notes, *say(None if state.cached is None else state.cached.counts))
        said = {"notes": list(notes)} if notes else {}
        return {**status(run), "compose": composed, "seconds": time.time() - began, **said}


@dataclass
class Training:
    """One call of `train` on a Ray that is there: the driver's side, which holds no truth."""

    run: str
    spec: RunSpec
    composer: RemoteComposer
    record: Record  # read only: the composer commits
    lanes: int
    per_lane: LaneResources
    gpus: int  # that this run may use
    there: tuple[int, int]  # CPUs and GPUs of the cluster
    report: Report
    asked: bool = False  # whether a person said how many lanes
    reach: str = ""  # by what it is known how many GPUs there are or may be
    secret: bytes | None = None
    source: Indexed | None = None  # the data, where this call has read it already
    more: tuple[AdditionBegun, More] | None = None  # data to be added
    running: Lanes | None = None
    ready: Sequence[float] = field(default_factory=list)
    trained_from: float = 0.0

    @classmethod
    def of(
        cls, run: str, spec: RunSpec, lanes: int | None, report: Report, declared: int | None = None, per_lane: LaneResources | None = None
    ) -> Training:  # fmt: skip
        """As many lanes as the cluster has or can start GPUs for, or has cores for, or as were asked for."""
        from taft_ray.orchestration import places
        from taft_ray.orchestration.actors import composer_for

        record = Record(run)
        per_lane = per_lane or record.state.per_lane
        reach, why = places.gpus_within_reach(declared, per_lane)
        gpus, cpus = reach if spec.device == "cuda" else 0, places.resources(per_lane)[0]
        count = lanes_for(spec.shards, gpus=gpus, cpus=cpus, threads=spec.threads, asked=lanes, per_lane=per_lane)
        there = places.resources()
        return cls(run, spec, composer_for(run), record, count, per_lane, gpus, there, report, lanes is not None, why)

    @property
    def workers(self) -> int:
        """The most workers of the prefix pass."""
        return self.gpus * self.per_lane.per_gpu or self.lanes

    def state(self) -> RunState:
        """The ledger's state now."""
        self.record.refresh()
        return self.record.state

    def begin(self, fit_timeout: float | None = None, per_lane: LaneResources | None = None) -> None:
        """The run's first fact, and a secret for its id hashes."""
        known = self.state()
        self.secret = secret_to_read_in(
            self.record.store, known, reading=known.cached is None or known.adding is not None
        )
        made_on = run_environment(cpus=self.there[0], gpus=self.there[1], lanes=self.lanes, reach=self.reach)
        self.composer.begin(made_on, self.secret and digest_bytes(self.secret), fit_timeout, per_lane)

    def want(self, add: str | None, shards: int | None) -> list[str]:
        """Look at data to be added, and commit that it is; or go on with what was begun. The answer is notes for a person."""
        from taft_ray.orchestration.prefix_pass import passes
        from taft_ray.prefix.additions import index_more, nothing_added, shards_for

        state = self.state()
        data = add or (state.adding and state.adding.data)
        if data is None:
            return []
        if state.cached is None:
            raise UsageError(f"{self.run} has not read its own data yet; train it without --add first")
        self.secret = secret_to_read_in(self.record.store, state, reading=True)
        manifest = self.record.current(self.record.manifest)
        more = index_more(passes(), data, self.spec, manifest, state, self.secret)
        classes = more.source.classes[len(state.classes) :]
        check_new_classes(self.spec, data, classes)
        rows = more.source.rows.num_rows
        if not rows:
            said = f"nothing in {data} is new: {_left_out(more)}"
            if state.adding is None:
                return [said]
            if state.adding.data != data:  # another one was cut off, and is gone on with
                return [said, *self.want(None, None)]
            ended = nothing_added(state.adding, more, manifest, state)
            self.composer.admit_addition(ended, state.adding)
            return [said]
        held = sum(shard.samples for shard in state.shards.values())
        check_delta(self.spec, held + rows)
        begun = self.composer.begin_addition(data, shards or shards_for(rows, held, len(state.shards)))
        self.more = begun, more
        said = (
            f"{plural(rows, 'row')} of {data} added as {which('shard', range(begun.first, begun.first + begun.shards))}"
        )
        return [said + (f"; {_left_out(more)}" if more.known or more.forgotten else ""), *_new_classes(classes)]

    def finish(self, *, monolithic: bool) -> dict[str, Any] | None:
        """Cache, fits, the comparison model if it is wanted, and the composed model."""
        state = self.state()
        work = state.cached is None or self.more is not None or bool(pending_shards(state))
        self._tokens(work)
        compare = monolithic and self.composer.want_monolith()
        self._fits(work, compare)
        _check_all_trained(self.state())
        if work:
            self._say_finished()
        if compare:
            self._compared()
        if not self.state().in_tier(self.spec.two_tiers):
            return None
        self.report("compose", 0, 1)
        composed = self.composer.compose()
        self.report("compose", 1, 1)
        return composed

    def _tokens(self, work: bool) -> None:
        """Make the activation cache, unless it is there; on cores that nobody else wants the lanes start beside it and wait.

        Their start takes as long as a small run's pass. Where others want the cores, lanes that wait could wait for ever.
        """
        from taft_ray.orchestration import session
        from taft_ray.orchestration.actors import make_room

        make_room(self.run, self.spec, self.per_lane, self.workers)
        if work and not self.gpus and self.per_lane.cpus is None and session.alone():
            self.running = self._started(self._worth())
        self.trained_from = self.composer.now()
        try:
            if self.record.state.cached is None:
                self.trained_from = self._cache()
            if self.more is not None:
                self.trained_from = self._read_more(*self.more)
        except BaseException:
            if self.running is not None:
                self.running.send_home()
            raise

    def _cache(self) -> float:
        """Make the activation cache and commit it; returns when the lanes could begin, by the composer's clock."""
        from taft_ray.orchestration.prefix_pass import passes
        from taft_ray.prefix.cache import PART_FOLDERS, build_cache, cached_fact
        from taft_ray.prefix.passes import index_source

        store, spec, through = self.record.store, self.spec, passes(self.per_lane)
        result = build_cache(
            through, store, self.run, spec, source=self.source or index_source(through, spec.data, spec.classes),
            shards=spec.shards, assignment=spec.assignment, folders=PART_FOLDERS, tombstones=self.record.state,
            secret=self.secret, workers=self.workers, report=self.report,
        )  # fmt: skip
        fact = cached_fact(store, spec, result)
        committing = self.composer.now()
        self.composer.admit_cache(fact)  # which removes the marks of the pass, too
        return committing

    def _read_more(self, begun: AdditionBegun, more: More) -> float:
        """Make the cache of data to be added and commit it; returns when the lanes could begin."""
        from taft_ray.orchestration.prefix_pass import passes
        from taft_ray.prefix.additions import read_more

        read_more(
            passes(self.per_lane), self.run, self.record, begun, more, self.composer.admit_addition, self.secret, self.workers,
            self.report,
        )  # fmt: skip
        return self.composer.now()

    def _worth(self) -> int:
        """How many lanes to start: a run without fits has little for them to do."""
        if self.asked or not self.spec.lean:
            return self.lanes
        new = self.more[1].source if self.more is not None else self.source
        if new is not None:
            return lanes_of_rows(new.rows.num_rows, self.lanes)
        state = self.record.state
        return lanes_of_rows(sum(state.shards[shard].samples for shard in pending_shards(state)), self.lanes)

    def _started(self, count: int) -> Lanes:
        from taft_ray.orchestration.lanes import start_lanes

        self.report("lanes", 0, count)
        return start_lanes(self.run, self.spec, self.composer, count, self.per_lane)

    def _fits(self, work: bool, compare: bool) -> None:
        if work or compare:
            self.running = self.running or self._started(self._worth() if work else 1)
            self.ready = self.running.wait(self.report)

    def _say_finished(self) -> None:
        """Commit the wall clock of the fits; the comparison model, trained after the shards, is not in it."""
        # a composer that died meanwhile does not know when the last shard was committed
        ended = (self.running and self.running.ended) or self.composer.now()
        fact = TrainingFinished(
            ended - self.trained_from, self.running.count if self.running else self.lanes, self.trained_from, ended,
            self.running and self.running.started, tuple(self.ready),
        )  # fmt: skip
        self.composer.commit(fact, f"training-finished/{self.trained_from}")

    def _compared(self) -> None:
        """A composer that was killed meanwhile has forgotten the queue, not the ledger."""
        if not self.composer.want_monolith():
            return
        self._started(1).wait(self.report)
        if self.state().monolith_delta is None:
            raise TaftError("the comparison model was not finished; run the same command again")


def _kept(store: Store) -> LaneResources:
    """The share of each worker that was said before."""
    return replay(Ledger(store).entries()).per_lane


def check_delta(spec: RunSpec, samples: int) -> None:
    """UsageError where δ allows a mechanism that publishes a sample."""
    if spec.privacy is not None and spec.privacy.delta * samples >= 1:
        raise UsageError(
            f"delta={spec.privacy.delta:g} is not below 1 / {samples:,} samples: publishing one of them would be allowed; "
            "set a smaller --delta"
        )


def check_new_classes(spec: RunSpec, data: str, classes: Sequence[str]) -> None:
    """UsageError for classes of added data that the run lacks, where it has deltas."""
    if classes and not spec.lean:
        raise UsageError(
            f"{data} has {which('class', classes)}, which the run lacks. The outputs of a tangent model are fixed; "
            "leave these pictures out, or make an additive run without deltas (--solver additive)"
        )


def _left_out(more: More) -> str:
    """Why rows of data to be added are not."""
    known = f"{plural(more.known, 'row is', 'rows are')} in the run already" if more.known else ""
    forgotten = f"{plural(more.forgotten, 'row stays', 'rows stay')} out, forgotten" if more.forgotten else ""
    return ", ".join(filter(None, (known, forgotten))) or "it has no row"


def _new_classes(classes: Sequence[str]) -> list[str]:
    return [f"new classes: {', '.join(classes)}"] if classes else []


def _check_all_trained(state: RunState) -> None:
    left = pending_shards(state)
    if left:
        raise TaftError(
            f"{which('shard', left)} {'has' if len(left) == 1 else 'have'} no delta, yet the lanes went home; run the same command again"
        )
    if all(shard.state == EMPTY for shard in state.shards.values()):
        raise DataError("every shard is empty: no sample was kept")
