"""The paper's tables and figures as lists of points: the recipes, and which cells each table reads what from.

Source: Tables 1, 2, 4 to 7 and Figures 1 and 2 of TAFT (Liu et al., ICLR 2024). A cell that several tables need is the same
cell in all of them. Rows beside the paper's are in `baselines.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.systems import baselines
from taft_ray.systems.cell import Cell
from taft_ray.systems.points import Point, Table, Wanted, accuracy, gram_at, joint_at, kept, refit_seconds
from taft_ray.systems.private_table import nonlinear, of_rows, table3
from taft_ray.systems.readouts import COMPOSED
from taft_ray.systems.recipes import adam, adam_reset, nlft, ridge

FORGET = (0.0, 0.5)  # of the samples (figure 1c)
EPSILONS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.1, 0.3)
JOINT_PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SISA_SLICES = 4

SHARDED = {
    "Model Soup (NLFT, mean of weights)": (nlft, "mean"),
    "SISA (NLFT, vote)": (nlft, "vote"),
    "SISA (NLFT, mean of outputs)": (nlft, "average"),
    "TAFT: Adam, PT=F, mean": (adam_reset, "mean"),
    "TAFT: Adam, mean": (adam, "mean"),
    "Adam, Gram": (adam, "gram"),
    "Adam, joint Gram": (adam, "joint"),
    "ridge, mean": (ridge, "mean"),
    "ridge, Gram": (ridge, "gram"),
    "ridge, joint Gram": (ridge, "joint"),
}
TAFT_ROWS = (
    "TAFT: Adam, PT=F, mean",
    "TAFT: Adam, mean",
    "Adam, Gram",
    "ridge, mean",
    "ridge, Gram",
    "ridge, joint Gram",
)


def _rows(wanted: Wanted) -> dict[str, tuple[Callable[..., Cell], str]]:
    """`SHARDED`, without what this network's shards cannot be composed to."""
    return {row: made for row, made in SHARDED.items() if wanted.joint or made[1] != "joint"}


def _sharded(wanted: Wanted, make: Callable[..., Cell], shards: int, seed: int) -> Cell:
    """The cell of a row of `SHARDED`. Whatever figure asks first, the largest number of shards has the ``kept`` and the ε's."""
    cell = make(wanted.base, shards=shards, seed=seed)
    if shards != wanted.most:
        return cell
    cell = replace(cell, kept=wanted.kept)
    return replace(cell, epsilons=EPSILONS) if cell.network == "tangent" else cell


def _table1(wanted: Wanted) -> Table:
    rows: dict[str, Callable[..., Cell]] = {
        "NLFT-1, LR 1e-4": nlft,
        "NLFT-1, LR 1e-3": lambda base, **changes: nlft(base, learning_rate=1e-3, **changes),
        "TAFT-1 (Adam)": adam,
        "TAFT-1 (ridge)": ridge,
        "FC (Adam)": lambda base, **changes: nlft(base, learning_rate=1e-3, trainable="head", **changes),
        "FC (ridge)": lambda base, **changes: ridge(base, trainable="head", **changes),
    }
    if wanted.many_blocks:
        deep = {"last_blocks": wanted.many_blocks, "learning_rate": 1e-4}
        rows = {
            f"NLFT-{wanted.many_blocks}, LR 1e-4": lambda base, **changes: nlft(base, **deep, **changes),
            f"TAFT-{wanted.many_blocks} (Adam, LR 1e-4)": lambda base, **changes: adam(base, **deep, **changes),
            **rows,
        }
    points = tuple(
        Point(row=row, column="accuracy", cell=make(wanted.base, shards=1, seed=seed), read=accuracy("mean"))
        for row, make in rows.items()
        for seed in wanted.seeds
    )
    title = "One model on all data: fine-tuning, its linearisation, and the head alone"
    return Table(name="table1", title=title, row="system", column="", picture="bars", points=points)


def _table2(wanted: Wanted) -> Table:
    points = [
        Point(row=row, column=str(shards), cell=_sharded(wanted, make, shards, seed), read=accuracy(readout))
        for row, (make, readout) in _rows(wanted).items()
        for shards in (1, *sorted(wanted.shards))
        for seed in wanted.seeds
        # one shard leaves nothing to compose: every readout is that model
        if shards > 1 or readout == "mean"
    ]
    points += baselines.points(wanted)
    title = "Composition of shards; 1 is one model on all data, the same for every readout of a solver"
    return Table(name="table2", title=title, row="system", column="shards", picture="bars", points=tuple(points))


def _dropping(name: str, title: str, rows: Sequence[str], wanted: Wanted) -> Table:
    points = tuple(
        Point(row=row, column=f"{left}", cell=_sharded(wanted, make, wanted.most, seed), read=kept(readout, left))
        for row, (make, readout) in _rows(wanted).items()
        if row in rows
        for left in wanted.kept
        for seed in wanted.seeds
    )
    return Table(name=name, title=title, row="system", column="shards kept", picture="lines", points=points)


def _fig1a(wanted: Wanted) -> Table:
    title = f"Forgetting by dropping shards: what is left of {wanted.most}, the mean over random orders"
    return _dropping("fig1a", title, TAFT_ROWS, wanted)


def _fig1b(wanted: Wanted) -> Table:
    rows = [row for row in SHARDED if row not in ("Adam, Gram", "Adam, joint Gram", "ridge, mean")]
    title = f"Dropping shards, against SISA and Model Soup: what is left of {wanted.most}"
    return _dropping("fig1b", title, rows, wanted)


def _fig1c(wanted: Wanted) -> Table:
    """Retraining what a shard has left, against the one model over what all have left, on the same warm worker."""
    points: list[Point] = []
    rows = {
        "TAFT: Adam, mean": (adam, "mean", adam),
        "ridge, mean": (ridge, "mean", ridge),
        "ridge, Gram": (ridge, "gram", ridge),
        "ridge, joint Gram": (ridge, "joint", ridge),
        "SISA (NLFT, vote)": (nlft, "vote", nlft),
    }
    if not wanted.joint:
        del rows["ridge, joint Gram"]
    for row, (make, readout, whole) in rows.items():
        for share in FORGET:
            for seed in wanted.seeds:
                timed = replace(wanted.base, timed=True, forget=share)
                shards, one = make(timed, shards=wanted.most, seed=seed), whole(timed, shards=1, seed=seed)
                gone = f"{100 * share:.0f}% forgotten"
                composed = readout if readout in COMPOSED else None
                shard_s, whole_s = refit_seconds(composed), refit_seconds(None)
                points += [
                    Point(row=row, column=f"{gone}: accuracy", cell=shards, read=accuracy(readout)),
                    Point(row=row, column=f"{gone}: one model", cell=one, read=accuracy("mean")),
                    Point(row=row, column=f"{gone}: retrain of a shard", cell=shards, read=shard_s, unit="s"),
                    Point(row=row, column=f"{gone}: retrain of one model", cell=one, read=whole_s, unit="s"),
                    Point(
                        row=row, column=f"{gone}: times faster", cell=shards, read=shard_s, unit="×", against=(one, whole_s)
                    ),
                ]  # fmt: skip
    title = f"Retraining the touched one of {wanted.most} shards against retraining one model, same solver, warm worker"
    return Table(name="fig1c", title=title, row="system", column="", picture="time", points=tuple(points))


def _ablation(name: str, title: str, cells: Mapping[tuple[str, str], Callable[..., Cell]], wanted: Wanted) -> Table:
    points = tuple(
        Point(row=row, column=column, cell=make(wanted.base, shards=1, seed=seed), read=accuracy("mean"))
        for (row, column), make in cells.items()
        for seed in wanted.seeds
    )
    return Table(name=name, title=title, row="choice", column="solver", picture="bars", points=points)


def _with(make: Callable[..., Cell], **fixed: Any) -> Callable[..., Cell]:
    return lambda base, **changes: make(base, **fixed, **changes)


def _fig2a(wanted: Wanted) -> Table:
    losses = {"RSL (κ = 15)": "rsl", "MSE": "mse", "CE": "ce"}
    cells = {(row, "Adam"): _with(adam, loss=loss) for row, loss in losses.items()}
    cells |= {(row, "ridge"): _with(ridge, loss=loss) for row, loss in losses.items() if loss != "ce"}
    return _ablation("fig2a", "The loss of TAFT-1", cells, wanted)


def _fig2b(wanted: Wanted) -> Table:
    rows = {"PT=T (pre-trained)": False, "PT=F (last block reset)": True}
    solvers = (("Adam", adam), ("ridge", ridge))
    cells = {(row, solver): _with(make, reset=reset) for row, reset in rows.items() for solver, make in solvers}
    return _ablation("fig2b", "Linearising at the pre-trained or at a reset last block", cells, wanted)


def _fig2c(wanted: Wanted) -> Table:
    rows = {"CLS=F (pre-trained)": False, "CLS=T (new and linearised)": True}
    solvers = (("Adam", adam), ("ridge", ridge))
    cells = {(row, solver): _with(make, cls_token=token) for row, token in rows.items() for solver, make in solvers}
    return _ablation("fig2c", "The class token", cells, wanted)


def _table7(wanted: Wanted) -> Table:
    cells: dict[tuple[str, str], Callable[..., Cell]] = {}
    for column, fit in (("CE", {"loss": "ce"}), ("RSL, κ = 5", {"loss": "rsl", "kappa": 5.0})):
        for radius in (1.0, 10.0):
            cells[f"R = {radius:g}", column] = _with(adam, radius=radius, penalty=0.0, **fit)
        cells["no ball, penalty", column] = _with(adam, **fit)
        cells["neither", column] = _with(adam, penalty=0.0, **fit)
    return replace(_ablation("table7", "Projection onto a ball of radius R", cells, wanted), column="loss")


def _epsilon(wanted: Wanted) -> Table:
    points = tuple(
        Point(row=row, column=f"{epsilon:g}", cell=_sharded(wanted, make, wanted.most, seed), read=gram_at(epsilon))
        for row, make in (("Adam, Gram", adam), ("ridge, Gram", ridge))
        for epsilon in EPSILONS
        for seed in wanted.seeds
    )
    title = f"ε of the Gram composition of {wanted.most} shards"
    return Table(name="epsilon", title=title, row="system", column="ε", picture="lines", points=points)


def _joint(wanted: Wanted) -> Table:
    if not wanted.joint:
        raise UsageError("joint: the shards of this network are not composed jointly; epsilon is the table of Gram's ε")
    points = tuple(
        Point(
            row=row, column=f"{penalty:g}", read=joint_at(penalty),
            cell=replace(make(wanted.base, shards=wanted.most, seed=seed), joint_penalties=JOINT_PENALTIES),
        )
        for row, make in (("Adam, joint Gram", adam), ("ridge, joint Gram", ridge))
        for penalty in JOINT_PENALTIES
        for seed in wanted.seeds
    )  # fmt: skip
    title = f"λ of the joint composition of {wanted.most} shards"
    return Table(name="joint", title=title, row="system", column="λ", picture="lines", points=points)


def _rates(wanted: Wanted) -> Table:
    """Whether the order of the systems that descend is one of their learning rates: all of them, for every one."""
    points = tuple(
        Point(
            row=row, column=f"{rate:g}", read=accuracy(readout),
            cell=_sharded(wanted, _with(make, learning_rate=rate), wanted.most, seed),
        )
        for row, (make, readout) in SHARDED.items()
        if make is not ridge and readout not in ("gram", "joint")
        for rate in RATES
        for seed in wanted.seeds
    )  # fmt: skip
    title = f"The learning rate of Adam on {wanted.most} shards"
    return Table(name="rates", title=title, row="system", column="learning rate", picture="bars", points=points)


def _choices(wanted: Wanted) -> Table:
    """The other choices, one change at a time from the ridge fit of the other tables."""
    rows: dict[str, dict[str, Any]] = {
        "none of these": {},
        "λ = 0.001": {"penalty": 0.001},
        "λ = 0.1": {"penalty": 0.1},
        "κ = 5": {"kappa": 5.0},
        "α = 4": {"alpha": 4.0},
        "weights by samples": {"weighting": "samples"},
        "equal shards": {"assignment": "equal"},
        "PT=F": {"reset": True},
        "CLS=T": {"cls_token": True},
    }
    columns = {
        "one model": (1, "mean"),
        "mean": (wanted.most, "mean"),
        "Gram": (wanted.most, "gram"),
        "joint Gram": (wanted.most, "joint"),
    }
    if not wanted.joint:
        del columns["joint Gram"]

    def cell(changes: dict[str, Any], shards: int, seed: int) -> Cell:
        if not changes:
            return _sharded(wanted, ridge, shards, seed)
        return ridge(wanted.base, **changes, shards=shards, seed=seed)

    points = tuple(
        Point(row=row, column=column, cell=cell(changes, shards, seed), read=accuracy(readout))
        for row, changes in rows.items()
        for column, (shards, readout) in columns.items()
        for seed in wanted.seeds
    )
    title = f"Choices of the ridge fit, one changed at a time; {wanted.most} shards"
    return Table(name="choices", title=title, row="changed", column="model", picture="bars", points=points)


def _slices(wanted: Wanted) -> Table:
    """SISA's slices: the vote of shards that were trained in stages."""
    points = tuple(
        Point(
            row=row, column=str(slices), read=accuracy(readout),
            cell=_sharded(wanted, _with(make, slices=slices), wanted.most, seed),
        )
        for row, (make, readout) in _rows(wanted).items()
        if make not in (ridge, adam_reset) and readout not in ("gram", "joint")
        for slices in (1, SISA_SLICES)
        for seed in wanted.seeds
    )  # fmt: skip
    title = f"Slices inside each of {wanted.most} shards"
    return Table(name="slices", title=title, row="system", column="slices", picture="bars", points=points)


TABLES: dict[str, Callable[[Wanted], Table]] = {
    "table1": _table1,
    "table2": _table2,
    "fig1a": _fig1a,
    "fig1b": _fig1b,
    "fig1c": _fig1c,
    "fig2a": _fig2a,
    "fig2b": _fig2b,
    "fig2c": _fig2c,
    "table7": _table7,
    "epsilon": _epsilon,
    "joint": _joint,
    "rates": _rates,
    "choices": _choices,
    "slices": _slices,
    "baselines": baselines.table,
    "forgetting": baselines.forgetting,
    "views": baselines.views,
    "table3": table3,
    "table3-rows": of_rows,
    "table3-nonlinear": nonlinear,
}


def table(name: str, wanted: Wanted) -> Table:
    """The table of this name; UsageError names those there are."""
    if name not in TABLES:
        raise UsageError(f"table={name!r}: expected one of {', '.join(TABLES)}")
    return TABLES[name](wanted)
