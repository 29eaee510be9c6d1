"""The tables as lists of points, and their numbers from results."""

from dataclasses import replace
from statistics import stdev

import pytest

from taft_ray.cli.reproduce import NAMES
from taft_ray.errors import UsageError
from taft_ray.systems import ON_SITES, TABLES, Wanted, summarise, table


@pytest.fixture
def wanted(cell_of):
    return Wanted(base=cell_of(), seeds=(0, 1), shards=(2, 5), many_blocks=2, site_width=96)


OTHERS = ("private", "head", "knn", "additive", "head2toe", "regmean", "regmean++")
WAYS = [
    *("additive: subtract", "head: subtract", "knn: remove the row", "head2toe: select anew", "average: retrain"),
    *(f"gram: {way}" for way in ("retrain", "resolve", "drop", "drop, against retrain")),
    *(f"{readout}: retrain" for readout in ("mean", "joint", "regmean++")),
]


def fake(cell):
    """A result whose numbers say which cell they are of."""
    seed, shards = cell.spec.seed, cell.spec.shards
    value = 0.5 + 0.1 * seed
    accuracy = dict.fromkeys(("mean", "gram", "joint", "average", "vote"), value)
    away = {"mean": value, "max": value, "same": value}
    return {
        "accuracy": dict.fromkeys(OTHERS, value) | accuracy,
        "forgetting": {way: {"accuracy": value, "seconds": value, "after": away, "before": away} for way in WAYS},
        "kept": [{"order": o, "shards": n, **accuracy} for o in (0, 1) for n in range(1, shards + 1)],
        "gram_by_epsilon": {f"{e:g}": value for e in cell.epsilons},
        "joint_by_penalty": {f"{p:g}": value for p in cell.joint_penalties},
        "fits": {
            **dict.fromkeys(("prepare_seconds", "fit_seconds"), [12.0 / shards] * shards),
            **dict.fromkeys(("gram_seconds", "joint_seconds"), [0.0] * shards),
        },
        "recompose_seconds": {"mean": 0.0, "gram": 0.0, "joint": 0.0},
    }


def test_command_line_offers_every_table():
    assert set(NAMES) == set(TABLES)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_number_has_one_cell_a_seed(wanted, name):
    made = table(name, wanted)
    where = [(point.row, point.column, point.cell.spec.seed) for point in made.points]
    assert len(where) == len(set(where))
    summary = summarise(made, {cell.digest: fake(cell) for cell in made.cells})
    assert all(entry["seeds"] == [0, 1] for entry in summary["values"])
    assert all(entry["spread"] is not None for entry in summary["values"])


def test_tables_share_cells(wanted):
    """Dropped and voted values are read from the very cells that table2 measures."""
    cells = {name: {cell.digest for cell in table(name, wanted).cells} for name in TABLES}
    assert cells["fig1a"] | cells["fig1b"] | cells["epsilon"] <= cells["table2"]
    assert cells["table1"] & cells["table2"]
    assert cells["fig2a"] & cells["table2"]
    assert cells["slices"] & cells["table2"]
    assert cells["rates"] & cells["table2"]
    assert cells["baselines"] <= cells["table2"]


def test_recipes_are_the_papers(wanted):
    for point in table("table2", wanted).points:
        spec = point.cell.spec
        if point.cell.network == "nonlinear":
            rate = 1e-4 if spec.shards == 1 else 1e-3
            assert (spec.loss, spec.penalty, spec.learning_rate, spec.solver) == ("ce", 0.0, rate, "adam")
        else:
            assert (spec.loss, spec.kappa, spec.learning_rate) == ("rsl", 15.0, 1e-3)
    for point in table("table7", wanted).points:
        spec = point.cell.spec
        assert spec.penalty == 0.0 or point.row == "no ball, penalty"
        assert (spec.radius is not None) == point.row.startswith("R =")
        assert spec.loss == "ce" or spec.kappa == 5.0


def test_speed_up_is_the_monoliths_seconds_over_the_shards(wanted):
    made = table("fig1c", wanted)
    assert all(cell.timed for cell in made.cells)
    summary = summarise(made, {cell.digest: fake(cell) for cell in made.cells})
    ups = [entry for entry in summary["values"] if entry["unit"] == "×"]
    assert ups
    assert all(entry["mean"] == pytest.approx(5.0) for entry in ups)  # 12 s against 12/5 s


def test_mean_and_spread(wanted):
    made = table("table1", wanted)
    summary = summarise(made, {cell.digest: fake(cell) for cell in made.cells})
    entry = summary["values"][0]
    assert entry["values"] == [0.5, 0.6]
    assert (entry["mean"], entry["spread"]) == (pytest.approx(0.55), pytest.approx(stdev([0.5, 0.6])))


@pytest.mark.parametrize(
    "bad", [{"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"shards": (1, 5)}, {"shards": ()}, {"many_blocks": -1}]
)
def test_impossible_wishes_are_refused(cell_of, bad):
    with pytest.raises(UsageError, match="set --"):
        Wanted(base=cell_of(), **bad)


def test_unknown_table(wanted):
    with pytest.raises(UsageError, match="table2"):
        table("table9", wanted)


def test_without_a_joint_composition_there_is_nothing_to_choose_of_it(wanted):
    with pytest.raises(UsageError, match="not composed jointly"):
        table("joint", replace(wanted, joint=False))


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"joint"}))
def test_no_number_is_of_a_composition_that_there_is_not(wanted, name):
    made = table(name, replace(wanted, joint=False))
    assert not any("joint" in point.row + point.column for point in made.points)
    results = {cell.digest: fake(cell) for cell in made.cells}
    for result in results.values():
        del result["accuracy"]["joint"], result["recompose_seconds"]["joint"], result["fits"]["joint_seconds"]
        del result["forgetting"]["joint: retrain"]
    assert summarise(made, results)["values"]


def test_rows_of_sites_need_sites(wanted):
    without = table("table2", replace(wanted, site_width=None))
    assert not any("additive" in point.row or "Head2Toe" in point.row for point in without.points)
    assert all(point.cell.network not in ON_SITES for point in without.points)
    widths = {point.cell.spec.features for point in table("table2", wanted).points if point.cell.network in ON_SITES}
    assert widths == {96}


def test_one_picture_leaves_every_cell_of_forgetting(wanted):
    made = table("forgetting", wanted)
    assert all(cell.leaving == 1 and cell.timed and cell.spec.shards == 5 for cell in made.cells)
    assert not {cell.digest for cell in made.cells} & {cell.digest for cell in table("table2", wanted).cells}
