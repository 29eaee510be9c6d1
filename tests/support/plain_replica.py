"""A replica without Ray Serve: its clock is turned by hand, and it loads when it is told to."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from folder import finish

from taft_ray.composer.composer import Composer
from taft_ray.composer.selection import Selection
from taft_ray.plans.serving import Served
from taft_ray.run.replicas import notes_in
from taft_ray.serving.answering import Asked, answered, decoded
from taft_ray.serving.loading import Loader
from taft_ray.serving.options import Source, sources_of
from taft_ray.serving.replica import Replica, Unconfirmed
from taft_ray.storage import Store

LEASE, DRAIN = 5.0, 2.0
MOST = 89_478_485


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Loads:
    """An executor that loads at once, or, while ``held``, when ``go`` is called."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, load: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._waiting.append((future, load, arguments))
        if not self.held:
            self.go()
        return future

    def go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future, load, arguments in waiting:
            try:
                future.set_result(load(*arguments))
            except Exception as error:
                future.set_exception(error)


class PlainReplica:
    """A replica of some runs, as `deployments.ModelReplica` has it, in this process."""

    def __init__(self, *runs: str, serving: str = "s1", name: str = "r", clock: Clock | None = None) -> None:
        self.clock, self.loads, self.most = clock or Clock(), Loads(), MOST
        self.sources = sources_of(runs)
        self.loader = Loader()
        self.replica = Replica(
            self.sources,
            serving=serving,
            replica=name,
            lease=LEASE,
            clock=self.clock,
            load=self.loader,
            submit=self.loads,
        )

    def poll(self, times: int = 3) -> "PlainReplica":
        """Look at the heads so often that what is loaded at once is answered with, too."""
        for _ in range(times):
            self.replica.poll()
        return self

    def answer(self, *pictures: bytes, name: str = "") -> dict[str, Any]:
        """The answer to encoded pictures; {"unreadable": [...]} or {"unconfirmed": why} where there is none."""
        name = name or self.sources[0].name
        try:
            pixels, unreadable = decoded(self.replica, name, pictures, self.most)
        except Unconfirmed as error:
            return {"unconfirmed": str(error)}
        return {"unreadable": unreadable} if unreadable else answered(self.replica, [Asked(name, pixels)])[0]


def begin_serving(run: Path | str, serving: str = "s1", modes: tuple[str, ...] = ()) -> None:
    """Commit that a run is served, as `application.register` does."""
    composer = Composer(str(run))
    composer.begin_serving(Served(serving, LEASE, DRAIN, modes or (composer.record.spec.compose,)))


def notes(run: Path | str, serving: str = "s1") -> dict[str, int]:
    """The ledger number of each replica's note, by name."""
    return {note.replica: note.number for note in notes_in(Store(str(run))).get(serving, [])}


def source(run: Path | str) -> Source:
    return sources_of([str(run)])[0]


def plain_forget_served(run: Path | str, ids: list[str], mode: str, *replicas: PlainReplica) -> dict[str, Any]:
    """A forget of a run whose replicas look at the ledger meanwhile, by one clock."""
    clock = replicas[0].clock if replicas else Clock()
    composer = Composer(str(run))
    composer.forgetting.withdrawing.clock = clock
    asked = composer.request_forget(Selection(ids=tuple(ids)), mode)
    composer.resume_forget(asked["request"])
    for _ in range(200):
        for one in replicas:
            one.poll()
        if composer.withdraw(asked["request"]) == 0:
            break
        clock.pass_by(0.1)
    return finish(composer, composer.forgetting.answer(asked["request"]))
