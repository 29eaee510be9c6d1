"""A measured cell: the shards, and what is read out of them."""

import importlib
import json
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from toy import CLASSES, token_set

from taft_ray.errors import DataError
from taft_ray.fitting import fit
from taft_ray.sums import compose, statistics_for
from taft_ray.systems import measure
from taft_ray.systems.measure import split
from taft_ray.tangent import linearize, prepare_pictures

measuring = importlib.import_module("taft_ray.systems.measure")  # whose name in the package is the function


@pytest.mark.parametrize("method", ["hash", "equal", "stratified"])
def test_every_sample_is_in_one_shard(train, cell_of, method):
    shards = split(cell_of(assignment=method), train)
    assert sorted(torch.cat(shards).tolist()) == list(range(len(train)))
    assert [s.tolist() for s in shards] != [s.tolist() for s in split(cell_of(assignment=method, seed=1), train)]


def test_forgotten_samples_are_in_none_and_move_no_other(train, cell_of):
    whole, part = split(cell_of(), train), split(cell_of(forget=0.5), train)
    assert sum(map(len, part)) == len(train) // 2
    for before, after in zip(whole, part, strict=True):
        kept = set(after.tolist())
        assert [i for i in before.tolist() if i in kept] == after.tolist()
    # the same ones for every number of shards and every solver of a seed
    one = split(cell_of(forget=0.5, shards=1, solver="adam"), train)
    assert sorted(one[0].tolist()) == sorted(torch.cat(part).tolist())


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_output_ensemble_of_tangent_shards_is_the_composed_model(tm, train, test, cell_of, solver, weighting):
    result = measure(cell_of(solver=solver, weighting=weighting), tm, train, test)
    assert result["ensemble_difference"] < 1e-5
    assert result["accuracy"]["average"] == pytest.approx(result["accuracy"]["mean"], abs=1 / len(test) + 1e-9)


def test_composed_models_are_those_of_the_core(tm, train, test, cell_of):
    """Mean, Gram and joint, by `fit` and `compose` alone."""
    cell = cell_of()
    result = measure(cell, tm, train, test)
    shards = [train[index] for index in split(cell, train)]
    prepared = [prepare_pictures(tm, shard.tokens) for shard in shards]
    deltas = [fit(tm, p, shard.labels, cell.spec.fit_config()) for p, shard in zip(prepared, shards, strict=True)]
    expected = {
        "mean": compose(deltas),
        "gram": compose(deltas, statistics=[tm.gram(p) for p in prepared], epsilon=cell.spec.epsilon),
        "joint": compose(
            deltas, statistics=[statistics_for("joint", tm, p, d) or {} for p, d in zip(prepared, deltas, strict=True)]
        ),
    }
    pictures = tm.prepare(test.tokens)
    for readout, delta in expected.items():
        right = (tm.logits(pictures, delta).argmax(-1) == test.labels).double().mean()
        assert result["accuracy"][readout] == pytest.approx(float(right)), readout
    assert result["accuracy"]["gram"] > 0.5  # a third is chance


def test_penalties_of_the_joint_composition_are_measured_beside_the_specs_own(tm, train, test, cell_of):
    cell = cell_of(joint_penalties=(0.01, 1e4))
    result = measure(cell, tm, train, test)
    assert result["joint_by_penalty"]["0.01"] == result["accuracy"]["joint"]
    heavy = measure(cell_of(joint_penalty=1e4), tm, train, test)
    assert heavy["accuracy"]["joint"] == result["joint_by_penalty"]["10000"] != result["accuracy"]["joint"]
    assert heavy["accuracy"]["gram"] == result["accuracy"]["gram"]


@pytest.mark.parametrize("network", ["tangent", "nonlinear"])
def test_measuring_again_gives_the_same_numbers(tm, train, test, cell_of, network):
    cell = cell_of(network=network, solver="adam", kept=(4, 2), orders=2, slices=2)
    first, second = (measure(cell, tm, train, test) for _ in range(2))
    for name in ("accuracy", "kept", "samples", "absent_classes"):
        assert first[name] == second[name]
    json.dumps(first, allow_nan=False)
    assert {(row["order"], row["shards"]) for row in first["kept"]} == {(o, n) for o in (0, 1) for n in (2, 4)}
    everyone = [row for row in first["kept"] if row["shards"] == 4]
    assert all(row["vote"] == first["accuracy"]["vote"] for row in everyone)
    assert all(row["mean"] == first["accuracy"]["mean"] for row in everyone)  # sums do not depend on the order


def test_statistics_in_files_give_the_same_numbers(tm, train, test, cell_of, monkeypatch):
    cell = cell_of(solver="ridge")
    in_memory = measure(cell, tm, train, test)
    spilled = []
    in_files = measuring.in_files
    monkeypatch.setattr(measuring, "IN_MEMORY", cell.spec.shards - 1)
    monkeypatch.setattr(measuring, "in_files", lambda tensors: spilled.append(1) or in_files(tensors))
    again = measure(cell, tm, train, test)
    assert len(spilled) == 2 * sum(1 for size in again["samples"] if size), "Gram and joint of each shard"
    for name in ("accuracy", "gram_by_epsilon", "joint_by_penalty"):
        assert again[name] == in_memory[name]


def test_one_shard_is_one_model(tm, train, test, cell_of):
    result = measure(cell_of(shards=1), tm, train, test)
    assert len(set(result["accuracy"].values())) == 1
    assert set(result["accuracy"]) == {"mean", "average", "vote"}  # there is nothing to compose by Gram


def test_average_pooling_is_composed_by_what_it_allows(train, test, cell_of):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3, global_pool="avg"
        )
    result = measure(cell_of(), linearize(network, num_classes=3), train, test)
    assert set(result["accuracy"]) == {"mean", "gram", "average", "vote"}


def test_timed_cells_say_what_a_retrain_takes(tm, train, test, cell_of):
    result = measure(cell_of(timed=True), tm, train, test)
    assert set(result["recompose_seconds"]) == {"mean", "gram", "joint"}
    assert all(len(values) == 4 for values in result["fits"].values())
    assert min(result["fits"]["fit_seconds"]) > 0


def test_classes_that_shards_lack_are_counted_and_empty_shards_weigh_nothing(tm, train, test, cell_of):
    few = train[torch.arange(9)]
    cell = cell_of(shards=8)
    result = measure(cell, tm, few, test)
    assert 0 in result["samples"]
    assert result["absent_classes"] == sum(
        len(few.labels[index].unique()) < tm.num_classes for index in split(cell, few)
    )
    assert len(result["fits"]["fit_seconds"]) == sum(count > 0 for count in result["samples"])


def test_no_sample_at_all_is_an_error(tm, train, test, cell_of):
    with pytest.raises(DataError, match="empty"):
        measure(replace(cell_of(), forget=0.9), tm, train[torch.arange(0)], test)


# the first torch.func.jvp of a process imports torch's own decompositions, which call it
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize(("network", "solver"), [("tangent", "ridge"), ("tangent", "adam"), ("nonlinear", "adam")])
def test_tangent_resnet(cell_of, network, solver):
    """The LQF and TMC line: a convolution's maps through the fallback."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}
        resnet = linearize(timm.create_model("resnet18", **shape), num_classes=CLASSES)
    train, test = token_set(resnet, 24, 1), token_set(resnet, 12, 2)
    assert train.tokens.ndim == 4
    cell = cell_of(network=network, solver=solver, shards=2, epochs=1, max_iterations=5)
    result = measure(cell, resnet, train, test)
    if network == "tangent":
        assert result["ensemble_difference"] < 1e-5
    assert all(0 <= value <= 1 for value in result["accuracy"].values())
