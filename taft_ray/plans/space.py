"""The fields that a sweep varies, and the trials it draws from them.

A trial's values depend on (seed, trial number, name) alone, by BLAKE2b. Asking for more trials keeps those that were
measured, and another machine draws the same.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taft_ray.data.keys import words
from taft_ray.errors import UsageError
from taft_ray.fitting.config import LOSSES, SOLVERS
from taft_ray.plans.spec import RunSpec
from taft_ray.tangent.options import TRAINABLE

OF_COMPOSITION = {"epsilon": "gram", "joint_penalty": "joint"}
SCALES = (
    "learning_rate",
    "penalty",
    "kappa",
    "alpha",
    *OF_COMPOSITION,
)  # positive numbers, drawn evenly in their logarithm
FLAGS = ("reset", "cls_token")
COUNTS = ("epochs", "batch_size")
NAMED = {"solver": SOLVERS, "loss": LOSSES, "trainable": TRAINABLE}
VARIED = (*SCALES, *FLAGS, *COUNTS, *NAMED, "last_blocks")
OF_ADAM = frozenset({"learning_rate", *COUNTS})
OF_RSL = frozenset({"kappa", "alpha"})
_DRAWS_A_TRIAL = 50  # draws for each trial wanted before the space is taken to hold no more

Settings = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """One field of the spec that is varied: by the values given, or evenly in the logarithm between two bounds."""

    name: str
    values: tuple[Any, ...] = ()
    bounds: tuple[float, float] | None = None

    def at(self, share: float) -> Any:
        """The value at ``share`` in [0, 1) of the way."""
        if self.bounds is None:
            return self.values[int(share * len(self.values))]
        low, high = (math.log(bound) for bound in self.bounds)
        return float(f"{math.exp(low + share * (high - low)):.3g}")  # what a person types again

    def __str__(self) -> str:
        if self.bounds is not None:
            return f"{self.name}={self.bounds[0]:g}..{self.bounds[1]:g}"
        return f"{self.name}={','.join(_text(value) for value in self.values)}"


@dataclass(frozen=True)
class Trial:
    """The settings that are tried: the fields of the run's spec that differ, those without a meaning here left out."""

    number: int
    settings: Settings

    def spec(self, base: RunSpec) -> RunSpec:
        """The spec of a run with these settings; UsageError when there is none such."""
        return replace(base, **self.settings)


def parse_space(texts: Iterable[str]) -> tuple[Dimension, ...]:
    """``name=value,value,…`` or ``name=low..high``, each once, with the names of RunSpec (dashes will do)."""
    found: dict[str, Dimension] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values.strip():
            raise UsageError(f"--vary {text!r}: expected NAME=VALUE,VALUE,… or NAME=LOW..HIGH")
        if name not in VARIED:
            kept = " (it decides the tokens, or the shards: make another run)" if name in _spec_fields() else ""
            raise UsageError(f"--vary {name}: a sweep cannot vary it{kept}; expected one of {', '.join(VARIED)}")
        if name in found:
            raise UsageError(f"--vary {name} is given twice; put all its values into one")
        found[name] = _range(name, values) if ".." in values else _values(name, values)
    return tuple(found.values())


def default_space(base: RunSpec) -> tuple[Dimension, ...]:
    """The paper's choices and wide ranges around them; last_blocks where the run's tokens allow a smaller one."""
    blocks: tuple[int | str, ...] = (1, base.last_blocks) if base.last_blocks not in (0, 1) else (base.last_blocks,)
    return (
        Dimension("solver", SOLVERS if base.slices == 1 else ("adam",)),
        Dimension("learning_rate", bounds=(1e-4, 1e-2)),
        Dimension("penalty", bounds=(1e-4, 1e-1)),
        Dimension("kappa", bounds=(5.0, 30.0)),
        Dimension("alpha", bounds=(1.0, 15.0)),
        Dimension("reset", (False, True)),
        Dimension("cls_token", (False, True)),
        Dimension("last_blocks", blocks),
    )


def draw(
    space: Sequence[Dimension], base: RunSpec, *, trials: int, seed: int, admit: Callable[[RunSpec], None]
) -> tuple[list[Trial], list[tuple[Settings, str]]]:
    """Different trials, at most as many as asked, and the settings that were refused with the reason of each.

    A space of fewer combinations than that is taken whole. admit: raises UsageError for a spec that this run cannot have.
    UsageError when no trial is left.
    """
    if trials < 1:
        raise UsageError(f"expected trials >= 1, got {trials}; set --trials")
    if not space:
        raise UsageError("nothing is varied; set --vary NAME=VALUE,VALUE")
    for dimension in space:
        if OF_COMPOSITION.get(dimension.name, base.of_deltas) != base.of_deltas:
            raise UsageError(
                f"--vary {dimension.name}: it is of the composition {OF_COMPOSITION[dimension.name]}, and this run's "
                f"deltas are composed by {base.of_deltas}"
            )
    taken: list[Trial] = []
    refused: list[tuple[Settings, str]] = []
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for number, drawn in _candidates(space, trials, seed):
        settings = _with_a_meaning(drawn, base)
        same = tuple(sorted(settings.items()))
        if same in seen:
            continue
        seen.add(same)
        trial = Trial(number, settings)
        try:
            admit(trial.spec(base))
        except UsageError as error:
            refused.append((settings, str(error)))
            continue
        taken.append(trial)
        if len(taken) == trials:
            break
    if not taken:
        settings, reason = refused[0]
        raise UsageError(f"no valid trial: all {len(refused)} were refused, such as {settings}: {reason}")
    return taken, refused


def _candidates(space: Sequence[Dimension], trials: int, seed: int) -> Iterator[tuple[int, Settings]]:
    if all(dimension.bounds is None for dimension in space):
        whole = math.prod(len(dimension.values) for dimension in space)
        if whole <= trials:
            names = [dimension.name for dimension in space]
            for number, values in enumerate(itertools.product(*(dimension.values for dimension in space))):
                yield number, dict(zip(names, values, strict=True))
            return
    for number in range(trials * _DRAWS_A_TRIAL):
        yield number, {dimension.name: dimension.at(_share(seed, number, dimension.name)) for dimension in space}


def _share(seed: int, number: int, name: str) -> float:
    """A number in [0, 1)."""
    drawn = hashlib.blake2b(f"{number} {name}".encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
    return int(words([drawn])[0][0] >> 11) * 2.0**-53


def _with_a_meaning(settings: Mapping[str, Any], base: RunSpec) -> Settings:
    """Without what the solver or the loss does not read: two trials that differ in that alone are one."""
    solver, loss = settings.get("solver", base.solver), settings.get("loss", base.loss)
    idle = (OF_ADAM if solver != "adam" else frozenset()) | (OF_RSL if loss != "rsl" else frozenset())
    return {name: value for name, value in settings.items() if name not in idle}


def _values(name: str, text: str) -> Dimension:
    values = tuple(dict.fromkeys(_value(name, part.strip()) for part in text.split(",")))
    return Dimension(name, values)


def _range(name: str, text: str) -> Dimension:
    if name not in SCALES:
        raise UsageError(f"--vary {name}={text}: only {', '.join(SCALES)} have ranges; give the values, with commas")
    low, high = (_value(name, part.strip()) for part in text.split("..", 1))
    if not low < high:
        raise UsageError(f"--vary {name}={text}: expected LOW < HIGH")
    return Dimension(name, bounds=(low, high))


def _value(name: str, text: str) -> Any:
    if name in NAMED:
        if text in NAMED[name]:
            return text
        raise UsageError(f"--vary {name}={text}: expected one of {', '.join(NAMED[name])}")
    if name in FLAGS:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UsageError(f"--vary {name}={text}: expected true or false")
    if name == "last_blocks" and text == "all":
        return text
    whole = name not in SCALES
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise UsageError(f"--vary {name}={text}: expected {'whole numbers' if whole else 'numbers'}") from None
    if not (math.isfinite(value) and (value > 0 or (name == "last_blocks" and value == 0))):
        raise UsageError(f"--vary {name}={text}: expected {'more than 0' if name != 'last_blocks' else 'at least 0'}")
    return value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _spec_fields() -> set[str]:
    return set(RunSpec.__dataclass_fields__)
