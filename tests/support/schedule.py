"""One run in many hands: the rules and the laws of the random schedules in `test_schedules`.

The rules do to one run what many processes may do to it at once, in any order. However a schedule goes, one composer
finishes at its end what is left over. The model is then, to the bit, that of the samples that should be in it.
"""

import atexit
import functools
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from folder import holders, state_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_faults import DIE_AFTER, DIE_BEFORE, Fault, Killed, Stalled, fault, faults_possible
from toy_run import (
    EVERYONE,
    NAME_OF,
    OWNERS,
    SHARDS,
    SPEC,
    TWO_TIERS,
    composed_of,
    fit,
    key_of,
    make_run,
    owner_of,
    prefix_pass,
    shard_of,
)

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.errors import IntegrityError, ObjectMissing, TaftError, UsageError
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Entry, Ledger, Store, read_rows
from taft_ray.verbs.gc import gc

COMPOSERS = 3
MODES = ("drop", "retrain", "resolve")
FITS = 6  # tries of one shard when everything is finished: then nobody disturbs


@functools.cache
def untrained(two_tiers: bool = False) -> Path:
    """A run of which nothing is trained yet; copied for every schedule."""
    where = Path(tempfile.mkdtemp(prefix="taft-ray-schedules-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    with faults_possible():
        make_run(where / "run", TWO_TIERS if two_tiers else SPEC)
    return where / "run"


composers = st.integers(0, COMPOSERS - 1)
faults = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([DIE_BEFORE, DIE_AFTER]), st.integers(1, 14)),
    st.tuples(st.just("stall"), st.integers(1, 14)),
)
selections = st.one_of(
    st.lists(st.sampled_from(EVERYONE), min_size=1, max_size=3, unique=True).map(lambda ids: Selection(ids=tuple(ids))),
    st.sampled_from(OWNERS).map(lambda owner: Selection(owners=(owner,))),
    st.integers(0, SHARDS - 1).map(lambda shard: Selection(shards=(shard,))),
)


class Schedule(RuleBasedStateMachine):
    """One run with three composers, of which none knows of the others; workers' tasks and results are in many hands."""

    two_tiers = False

    @initialize()
    def begin(self) -> None:
        self.patches = faults_possible()
        self.patches.__enter__()
        self.home = Path(tempfile.mkdtemp(dir=untrained(self.two_tiers).parent))
        self.run = Path(shutil.copytree(untrained(self.two_tiers), self.home / "run"))
        self.copy: Path | None = None
        self.composers: list[Composer | None] = [None] * COMPOSERS
        self.busy: dict[int, tuple[Stalled, Callable[[Any], None]]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.asked: set[str] = set()  # samples that a request was answered for
        self.perhaps: set[str] = set()  # samples whose request was cut off: it may have been made or not

    # --- calls that may be cut off or hold still

    def call(
        self,
        which: int,
        what: Callable[[Composer], Any],
        planned: tuple[str, int] | None,
        then: Callable[[Any], None] = lambda answer: None,
    ) -> None:
        """Call a composer: nothing happens when it is busy; it is made when it is not there."""
        if which in self.busy:
            return

        def whole() -> Any:
            composer = self.composers[which]
            if composer is None:
                composer = self.composers[which] = Composer(str(self.run))
            return what(composer)

        if planned is not None and planned[0] == "stall":
            stalled = Stalled(whole, planned[1])
            self.busy[which] = stalled, then
            if stalled.ended:
                self.woken(which)
            return
        try:
            with fault(None if planned is None else Fault(*planned)):
                answer = whole()
        except Killed:
            self.composers[which] = None
        else:
            then(answer)

    def woken(self, which: int, dies: bool = False) -> None:
        stalled, then = self.busy.pop(which)
        stalled.wake(dies)
        if isinstance(stalled.error, Killed):
            self.composers[which] = None
        elif stalled.error is not None:
            raise stalled.error
        else:
            then(stalled.answer)

    @precondition(lambda self: self.busy)
    @rule(pick=st.integers(0, COMPOSERS - 1), dies=st.booleans())
    def wake(self, pick: int, dies: bool) -> None:
        sleepers = sorted(self.busy)
        self.woken(sleepers[pick % len(sleepers)], dies)

    @rule(which=composers)
    def restart(self, which: int) -> None:
        if which not in self.busy:
            self.composers[which] = None

    # --- training

    @rule(which=composers, planned=faults)
    def take(self, which: int, planned: Any) -> None:
        def keep(task: dict[str, Any] | None) -> None:
            if task is not None:
                self.tasks.append(task)

        self.call(which, lambda composer: composer.take(f"lane-{len(self.tasks)}"), planned, keep)

    @rule(which=composers, pick=st.integers(0, 9))
    def ask_for_a_retrain(self, which: int, pick: int) -> None:
        """A driver asks for the fit that a request waits for."""

        def ask(composer: Composer) -> dict[str, Any] | None:
            requests = [r for r in composer.snapshot().requests.values() if r.purged is not None]
            if not requests:
                return None
            asked = composer.resume_forget(requests[pick % len(requests)].request)
            waiting = asked["retrain"]
            return composer.task_for(waiting[pick % len(waiting)], asked["mode"] == "resolve") if waiting else None

        def keep(task: dict[str, Any] | None) -> None:
            if task is not None:
                self.tasks.append(task)

        self.call(which, ask, None, keep)

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 9))
    def fit(self, pick: int) -> None:
        task = self.tasks.pop(pick % len(self.tasks))
        with suppress(ObjectMissing, IntegrityError):  # purged meanwhile, or damaged
            self.results.append(fit(Store(str(self.run)), task))

    @precondition(lambda self: self.results)
    @rule(which=composers, pick=st.integers(0, 9), again=st.booleans(), planned=faults)
    def finish(self, which: int, pick: int, again: bool, planned: Any) -> None:
        if which in self.busy:
            return
        at = pick % len(self.results)
        result = self.results[at] if again else self.results.pop(at)
        self.call(which, lambda composer: composer.finished(result), planned)

    @rule(which=composers, planned=faults)
    def train_some(self, which: int, planned: Any) -> None:
        """A lane that fits what it takes."""

        def lane(composer: Composer) -> None:
            for _ in range(2):
                task = composer.take("lane")
                if task is not None:
                    fit_and_hand_in(composer, task)

        self.call(which, lane, planned)

    @rule(which=composers, planned=faults)
    def compose(self, which: int, planned: Any) -> None:
        def compose(composer: Composer) -> None:
            with told(UsageError, "no shard with samples"):
                composer.compose()

        self.call(which, compose, planned)

    @rule(which=composers, planned=faults)
    def train_command_again(self, which: int, planned: Any) -> None:
        def begin(composer: Composer) -> None:
            created = composer.snapshot().created
            assert created is not None
            composer.begin({}, created.id_key)

        self.call(which, begin, planned)

    @rule(which=composers, planned=faults)
    def late_prefix_pass(self, which: int, planned: Any) -> None:
        """A second driver's pass, begun before any forget, ends now."""
        self.call(which, lambda composer: composer.admit_cache(prefix_pass(composer.record.store)), planned)

    # --- forgetting

    def names_of(self, selection: Selection) -> set[str]:
        return (
            set(selection.ids)
            | {name for name in EVERYONE if owner_of(name) in selection.owners}
            | {name for name in EVERYONE if shard_of(name) in selection.shards}
        )

    @rule(which=composers, selection=selections, mode=st.sampled_from(MODES), later=st.booleans(), planned=faults)
    def request(self, which: int, selection: Selection, mode: str, later: bool, planned: Any) -> None:
        self.ask_to_forget(which, selection, mode, later, planned)

    def ask_to_forget(self, which: int, selection: Selection, mode: str, later: bool, planned: Any) -> None:
        if which in self.busy:
            return
        deadline = time.time() + 3600 if later and mode != "drop" else None

        def ask(composer: Composer) -> bool:
            if selection.ids:
                return bool(composer.request_forget(selection, mode, deadline))
            with told(UsageError, "holds samples", "have no samples"):  # all of them went by other requests
                return bool(composer.request_forget(selection, mode, deadline))
            return False

        def answered(made: bool) -> None:
            if made:
                self.asked |= self.names_of(selection)

        self.perhaps |= self.names_of(selection)
        self.call(which, ask, planned, answered)

    @rule(which=composers, pick=st.integers(0, 9), planned=faults)
    def resume(self, which: int, pick: int, planned: Any) -> None:
        def resume(composer: Composer) -> None:
            requests = list(composer.snapshot().requests)
            if requests:
                composer.resume_forget(requests[pick % len(requests)])

        self.call(which, resume, planned)

    @rule(which=composers, pick=st.integers(0, 9), planned=faults)
    def conclude(self, which: int, pick: int, planned: Any) -> None:
        def conclude(composer: Composer) -> None:
            requests = list(composer.snapshot().requests)
            if not requests:
                return
            with told(TaftError, "is not finished"):
                composer.conclude_forget(requests[pick % len(requests)], {})

        self.call(which, conclude, planned)

    @rule(which=composers, planned=faults)
    def forget_command(self, which: int, planned: Any) -> None:
        """Carry out what is due, as a driver does."""
        self.call(which, carry_out, planned)

    # --- storage

    @rule()
    def collect_garbage(self) -> None:
        gc(str(self.run))

    @rule()
    def keep_a_copy(self) -> None:
        self.copy = self.home / "copy"
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.run, self.copy)

    @precondition(lambda self: self.copy is not None and not self.busy)
    @rule(warm=st.booleans())
    def put_the_copy_back(self, warm: bool) -> None:
        """Under warm composers, or while none runs."""
        assert self.copy is not None
        shutil.rmtree(self.run)
        shutil.copytree(self.copy, self.run)
        for which, composer in enumerate(self.composers):
            if composer is not None and warm:
                composer.recover()
            else:
                self.composers[which] = None

    # --- what must hold

    @invariant()
    def everything_that_the_ledger_names_is_there(self) -> None:
        store, state = Store(str(self.run)), state_of(self.run)
        assert state.manifest_key is not None
        assert state.manifest is not None
        manifest = read_rows(store, state.manifest_key, state.manifest)
        wanted = {ref["key"] for ref in manifest.refs}
        wanted |= {str(shard.in_sums.key) for shard in state.in_model}
        wanted |= {r.forgotten.certificate.key for r in state.requests.values() if r.forgotten}
        assert store.remaining(sorted(wanted)) == sorted(wanted)

    def teardown(self) -> None:
        try:
            while self.busy:
                self.woken(min(self.busy))
            self.finish_everything()
            self.check()
        finally:
            shutil.rmtree(self.home)
            self.patches.__exit__(None, None, None)

    def finish_everything(self) -> None:
        composer = Composer(str(self.run))
        while (task := composer.take("last")) is not None:
            fit_and_hand_in(composer, task)
        composer.recover()
        while left := [r.request for r in composer.snapshot().requests.values() if r.forgotten is None]:
            carry_out(composer, left)
        if composer.snapshot().in_model:
            composer.compose()
        gc(str(self.run))

    def check(self) -> None:
        store, state = Store(str(self.run)), state_of(self.run)
        entries = Ledger(store).entries()
        problems = verify(str(self.run))["problems"]
        assert problems == [], problems
        assert state.manifest_key is not None
        assert state.manifest is not None
        rows = read_rows(store, state.manifest_key, state.manifest).table
        left = {NAME_OF[key] for key in rows["key"].to_pylist()}
        gone = set(EVERYONE) - left
        assert self.asked <= gone <= self.perhaps
        for name in gone:
            assert holders(self.run, key_of(name)) == []

        # the model: which shards are in it by the requests' modes, and to the bit what they were fitted on
        members = {shard: {name for name in left if shard_of(name) == shard} for shard in range(SHARDS)}
        present = {shard.shard for shard in state.in_model}
        touched = [(r.mode, shard) for r in state.requests.values() for shard in r.shards]
        for shard, held in members.items():
            modes = [mode for mode, number in touched if number == shard]
            if not held:
                assert shard not in present
            elif "drop" not in modes:
                assert shard in present
            elif set(modes) == {"drop"}:
                assert (shard in present) == (not was_dropped(entries, shard))
        composer = Composer(str(self.run))
        self.check_models(composer, [members[shard] for shard in sorted(present)])

        # every request once, to its end
        ops = Counter(entry.op for entry in entries)
        assert [op for op, times in ops.items() if times > 1] == []
        concluded = [entry.body["request"] for entry in entries if entry.kind == "forgotten"]
        assert sorted(concluded) == sorted(state.requests)
        assert len(store.list("certificates/")) == len(concluded)

    def check_models(self, composer: Composer, members: list[set[str]]) -> None:
        """members: of the shards in the model."""
        assert composer.composed_digest() == composed_of(members)


def fit_and_hand_in(composer: Composer, task: dict[str, Any]) -> bool:
    """Do what a lane does with a task: whether it was committed. A shard that is damaged goes into quarantine."""
    try:
        return composer.finished(fit(composer.record.store, task))
    except (ObjectMissing, IntegrityError) as error:
        if not composer.examine([task["shard"]]) and isinstance(error, IntegrityError):
            raise
        return False


def was_dropped(entries: list[Entry], shard: int) -> bool:
    """Whether a request took the shard's delta out of the model; one whose delta was not made yet is fitted later."""
    fitted, shards_of = False, {}
    for entry in entries:
        if entry.kind == "trained" and entry.body["shard"] == shard:
            fitted = True
        elif entry.kind == "forget-requested":
            shards_of[entry.body["request"]] = entry.body["shards"]
        elif entry.kind == "dropped" and fitted and shard in shards_of[entry.body["request"]]:
            return True
    return False


@contextmanager
def told(kind: type[TaftError], *words: str) -> Iterator[None]:
    """An error that says one of these is an answer, not a fault."""
    try:
        yield
    except kind as error:
        if not any(word in str(error) for word in words):
            raise


def carry_out(composer: Composer, first: Any = ()) -> None:
    """`requests._carry_out` without Ray."""
    standing = [composer.resume_forget(name) for name in composer.due_requests(first)]
    to_fit: dict[int, bool] = {}
    for asked in standing:
        for shard in asked["retrain"]:
            to_fit[shard] = to_fit.get(shard, True) and asked["mode"] == "resolve"
    for shard, resolve in to_fit.items():
        for _ in range(FITS):
            task = composer.task_for(shard, resolve)
            if task is None:
                break
            if fit_and_hand_in(composer, task):
                break
    for asked in standing:
        with told(TaftError, "is not finished"):  # another composer has dropped its shard again
            composer.conclude_forget(asked["request"], {})
