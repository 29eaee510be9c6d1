"""The place of one model in a replica: the one that answers, the one that is being loaded, and those that batches still read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from taft_ray.log import logger_of
from taft_ray.serving.following import Wanted
from taft_ray.serving.loading import Load, Model
from taft_ray.serving.options import Source

_log = logger_of(__name__)
Submit = Callable[..., "Future[Model]"]


@dataclass(eq=False)
class Held:
    """A loaded model in a replica. until: by the replica's clock, when its lease ends. reading: batches that are under way.

    held_back: why it gives labels alone; None where it gives probabilities.
    """

    wanted: Wanted
    model: Model
    number: int
    until: float
    held_back: str | None = None
    reading: int = 0


@dataclass(frozen=True)
class Reference:
    """The immutable reference that a batch reads once."""

    held: Held
    model: Model
    digest: str
    number: int
    held_back: str | None = None


@dataclass(eq=False)
class Slot:
    """The place of one model of the pool in a replica."""

    source: Source
    active: Held | None = None
    before: list[Held] = field(default_factory=list)  # still read by batches
    coming: Future[Model] | None = None
    coming_of: Wanted | None = None
    missing: int = 0  # polls for which the ledger had no composition of what is in the model
    why: str = "it is not loaded yet"

    @property
    def is_loaded(self) -> bool:
        """Whether there is a model, activated or not."""
        return self.active is not None or (self.coming is not None and self.coming.done())

    def prepare(self, wanted: Wanted, load: Load, submit: Submit) -> None:
        """Have a model loaded, unless it is, or is being, loaded."""
        if self.coming is not None:
            return
        self.coming, self.coming_of = submit(load, self.source, wanted), wanted

    def prepared(self) -> tuple[Wanted, Model] | None:
        """The model that was loaded since; None where there is none, or it could not be loaded."""
        if self.coming is None or not self.coming.done():
            return None
        coming, wanted = self.coming, self.coming_of
        self.coming, self.coming_of = None, None
        try:
            return (wanted, coming.result()) if wanted is not None else None
        except Exception as error:  # whatever it is, the replica lives on, answers 503 in the end, and tries again
            why = f"its model cannot be loaded: {error}"
            if why != self.why:  # once, not at every poll
                _log.warning("a model of %s cannot be loaded: %s", self.source.run, error)
            self.why = why
            return None

    def activate(self, wanted: Wanted, model: Model, number: int, held_back: str | None) -> None:
        """Answer with this model from now on; never with one of an earlier ledger number than before."""
        if self.active is not None and number < self.active.number:
            return
        if self.active is not None:
            self.before.append(self.active)
        self.active = Held(wanted, model, number, float("-inf"), held_back)

    def held(self) -> list[Held]:
        """The models that answers may still come from."""
        self.before = [one for one in self.before if one.reading]
        return [*self.before, *([] if self.active is None else [self.active])]
