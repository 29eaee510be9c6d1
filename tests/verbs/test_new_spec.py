"""A command that is repeated means the run that it made, whatever the defaults have become."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from taft_ray.errors import SpecMismatch
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import Store, write_spec
from taft_ray.verbs.new_spec import spec_of as spec_for

EARLIER: list[Mapping[str, Any]] = [
    {"compose": "gram"},  # the default of version 0.1.0
    {"compose": "mean"},
    {"compose": "additive", "beside": "joint"},
    {"compose": "additive"},
    {"solver": "additive"},
]


@pytest.fixture
def begun(
    tmp_path: Path, spec_of: Callable[..., Any], parquet: Path
) -> Callable[..., tuple[str, RunSpec, dict[str, Any]]]:
    """A run of an earlier version; its address, its spec, and the fields that its command named."""

    def make(kind: Mapping[str, Any]) -> tuple[str, RunSpec, dict[str, Any]]:
        spec = spec_of(parquet, **kind)
        write_spec(Store(str(tmp_path / "run")), spec.to_json())
        named = ("data", "model", "weights", "image_size", "shards", "epochs", "solver")
        return str(tmp_path / "run"), spec, {name: getattr(spec, name) for name in named}

    return make


@pytest.mark.parametrize("kind", EARLIER, ids=str)
def test_a_command_without_a_composition_goes_on_with_the_run(kind: Mapping[str, Any], begun: Any) -> None:
    run, spec, named = begun(kind)
    assert spec_for(run, named).to_json() == spec.to_json()
    defaults = {"compose": RunSpec.compose, "beside": RunSpec.beside}
    assert spec_for(run, {**named, **defaults}, asked=named).to_json() == spec.to_json(), "as the command line does"


@pytest.mark.parametrize("other", [{"compose": "additive"}, {"compose": "joint"}])
def test_another_composition_that_is_asked_for_is_another_run(other: Mapping[str, Any], begun: Any) -> None:
    run, _, named = begun({"compose": "gram"})
    with pytest.raises(SpecMismatch, match="compose"):
        write_spec(Store(run), spec_for(run, {**named, **other}).to_json())


def test_another_solver_is_another_run(begun: Any) -> None:
    run, _, named = begun({"compose": "gram"})
    with pytest.raises(SpecMismatch, match="solver"):
        write_spec(Store(run), spec_for(run, {**named, "solver": "additive"}).to_json())


def test_a_new_run_keeps_rows_and_deltas(tmp_path: Path, parquet: Path) -> None:
    spec = spec_for(str(tmp_path / "run"), {"data": str(parquet)})
    assert (spec.compose, spec.beside, spec.two_tiers) == ("additive", "gram", True)
