"""The answer of `serve`: what is served, and where."""

from __future__ import annotations

from dataclasses import dataclass

from taft_ray.answers.answer import Answer
from taft_ray.answers.text import short
from taft_ray.counting import plural
from taft_ray.jsonable import optional


@dataclass(frozen=True)
class ServedModel(Answer):
    """A model of the pool. name: in the paths of requests. composed: its digest when the serving began. ledger: the number then."""

    name: str
    run: str
    composed: str | None
    classes: tuple[str, ...]
    ledger: int | None
    compose: str | None = optional()
    owners: tuple[str, ...] = optional(())

    def __str__(self) -> str:
        composed = "no model" if self.composed is None else f"model {short(self.composed)}"
        return f"{self.name}: {composed} of {self.run}, {plural(len(self.classes), 'class', 'classes')}"


@dataclass(frozen=True)
class Serving(Answer):
    """A serving that has begun. url: where it listens. serving: its name in ledgers. tokens: how many are let in.

    lease: seconds for which a replica may answer without having read the ledger's head.

    drain: seconds within which an answer that is under way is handed over or thrown away.
    """

    serving: str
    url: str
    models: tuple[ServedModel, ...]
    replicas: int
    lease: float
    drain: float
    tokens: int

    def __str__(self) -> str:
        access = f"{plural(self.tokens, 'token')}" if self.tokens else "callers on this machine alone"
        first = f"/{self.models[0].name}" if len(self.models) > 1 else ""
        return "\n".join(
            [
                f"Serving at {self.url} by {plural(self.replicas, 'replica')}, for {access}",
                *(f"  {model}" for model in self.models),
                f"  curl --data-binary @picture.jpg {self.url}/predict{first}",
                f"A model that has to go is answered with for {self.lease + self.drain:g} s at most.",
            ]
        )
