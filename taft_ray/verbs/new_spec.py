"""The spec of a run from what a person gives: what is left out is the run's own, or this machine's choice."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from taft_ray.embedded.names import EMBEDDED_NAME
from taft_ray.errors import UsageError
from taft_ray.plans.privacy import private_fields
from taft_ray.plans.solver_options import check_idle
from taft_ray.plans.spec import RunSpec, fastest_precision
from taft_ray.run.address import run_address
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store, read_spec
from taft_ray.verbs.composer import in_cluster

AUTO = "auto"
_KINDS = ("compose", "beside")  # had other defaults: who repeats a command of then means the run that it made
_ANY = {"device": "cpu", "precision": "float32"}  # a choice that stands for any other
_DEFAULTS = {name: RunSpec.__dataclass_fields__[name].default for name in _KINDS}


def spec_of(
    run: str | None, given: Mapping[str, Any], asked: Collection[str] | None = None, gpus: int | None = None
) -> RunSpec:
    """The spec that these fields make; "auto" device and precision are those of RUN where it exists already.

    A run may be continued on another kind of machine than it was begun on, and by a version with other defaults of `_KINDS`.
    UsageError for a field that is none, and in a new run for one that means nothing to its solver.

    asked: those of the fields that a person gave, all of them by default. gpus: how many the cluster can start.
    """
    typed = given if asked is None else asked
    values = {"device": AUTO, "precision": AUTO, **_known(private_fields(given, typed))}
    pinned = {} if run is None else read_spec(Store(run_address(run))) or {}
    if not pinned:
        check_idle(values, values.keys() & set(typed))
    if values.get("solver", RunSpec.solver) == pinned.get("solver"):
        left_out = (name for name in _KINDS if name in pinned and name not in typed)
        values |= {name: pinned[name] for name in left_out if values.get(name, _DEFAULTS[name]) == _DEFAULTS[name]}
    with _as_usage():  # before a cluster is asked anything
        RunSpec(**{"model": EMBEDDED_NAME, **values, **{name: _ANY[name] for name in _ANY if values[name] == AUTO}})
    if values["device"] == AUTO:
        values["device"] = pinned.get("device") or _device(gpus)
    if values["precision"] == AUTO:
        values["precision"] = pinned.get("precision") or fastest_precision(values["device"])
    with _as_usage():
        return RunSpec(**{"model": EMBEDDED_NAME, **values})


def _device(gpus: int | None) -> str:
    """The cluster's, which has or can start GPUs, whatever this process's machine has; without a cluster this machine's."""
    if in_cluster():
        from taft_ray.orchestration import places

        return "cuda" if places.has_gpus(gpus) else "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def continued(run: str, given: Mapping[str, Any]) -> RunSpec:
    """The spec of a run that exists, with these fields; `write_spec` refuses those that differ."""
    known = run_spec(Store(run_address(run)))
    with _as_usage():
        return replace(known, **_known(private_fields(given, given)))


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, lists as tuples; UsageError for a field that is none."""
    unknown = given.keys() - {field.name for field in fields(RunSpec)}
    if unknown:
        raise UsageError(f"train has no option {', '.join(sorted(unknown))}; see help(taft_ray.Run.train)")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


@contextmanager
def _as_usage() -> Iterator[None]:
    try:
        yield
    except TypeError as error:  # a text where a number is expected, say; or no data
        raise UsageError(f"the options of train do not make a spec: {error}") from error
