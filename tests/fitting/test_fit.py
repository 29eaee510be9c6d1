"""fit: the ridge solver against the dense solution, its certificates, the losses by hand, and the paper's Adam."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from cases import BY_ID, CLASSES, Reference, build, images, random_delta
from dense import COUNT, Dense, flat, jacobian, problem
from torch import Tensor

from taft_ray.errors import DataError, DeltaMismatch, UsageError
from taft_ray.fitting import FitConfig, Loss, adam, fit, precondition, ridge
from taft_ray.fitting.adam import index_order
from taft_ray.tangent import Delta, Prepared, Recomputed, TangentModel, batches, linearize
from taft_ray.tangent.kernel import jacobian_rows

LOSSES = [
    Loss(kind="rsl", kappa=15.0, alpha=1.0),
    Loss(kind="rsl", kappa=5.0, alpha=3.0),
    Loss(kind="rsl", kappa=15.0, alpha=0.25),
    Loss(kind="mse"),
]


# --- ridge


@pytest.mark.parametrize("penalty", [0.1, 1e-3])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.kind}-{loss.kappa}-{loss.alpha}")
def test_ridge_reaches_the_dense_solution(loss: Loss, penalty: float):
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    config = FitConfig(
        loss=loss.kind, kappa=loss.kappa, alpha=loss.alpha, penalty=penalty, tolerance=1e-11, max_iterations=5000
    )
    fitted = fit(tm, prepared, labels, config)
    dense = Dense(tm, prepared, labels, loss, penalty)
    assert fitted.report.converged
    assert float((flat(fitted) - dense.optimum).norm() / dense.optimum.norm()) < 1e-7
    assert fitted.report.objective == pytest.approx(dense.objective(dense.optimum), rel=1e-9)


def test_ridge_reaches_the_optimum_of_a_wide_problem():
    """More parameters than equations: the optimum lies in the rows of J, Δw* = Jᵀ(JJᵀ/(nK) + λI)⁻¹(T − f_w)/(nK)."""
    tm, tokens, labels = problem("full")
    prepared, penalty = tm.prepare(tokens), 0.01
    jac = jacobian(tm, prepared)
    assert jac.shape[1] > 10 * jac.shape[0]
    error = (F.one_hot(labels, CLASSES) * 15.0 - prepared.primal).flatten() / len(jac)
    kernel = jac @ jac.T / len(jac) + penalty * torch.eye(len(jac), dtype=tm.dtype)
    expected = jac.T @ torch.linalg.solve(kernel, error)
    fitted = fit(tm, prepared, labels, FitConfig(penalty=penalty, tolerance=1e-11, max_iterations=5000))
    assert float((flat(fitted) - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-3, 1e-6])
def test_certificate_is_honest(tolerance: float):
    """‖Δw − Δw*‖ <= distance_bound <= (largest eigenvalue / λ) ‖Δw − Δw*‖, and the residual is the true one."""
    tm, tokens, labels = problem()
    prepared, penalty = tm.prepare(tokens), 0.05
    dense = Dense(tm, prepared, labels, Loss(), penalty)
    fitted = fit(tm, prepared, labels, FitConfig(penalty=penalty, tolerance=tolerance, max_iterations=5000))
    report, delta = fitted.report, flat(fitted)
    distance = float((delta - dense.optimum).norm())
    largest = float(torch.linalg.eigvalsh(dense.matrix)[-1])
    assert report.distance_bound is not None
    assert distance <= report.distance_bound <= (1 + 1e-6) * largest / penalty * distance
    residual = float((dense.right - dense.matrix @ delta).norm() / dense.right.norm())
    assert report.residual == pytest.approx(residual, rel=1e-6)
    assert residual <= tolerance
    assert report.converged
    assert report.history[-1] == pytest.approx(residual, rel=1e-3)
    assert report.iterations == len(report.history)
    assert report.objective == pytest.approx(dense.objective(delta), rel=1e-12)
    assert report.samples == COUNT


def test_certificate_of_an_unfinished_solve_is_honest(monkeypatch):
    monkeypatch.setattr(precondition, "WHOLE", CLASSES)
    monkeypatch.setattr(precondition, "PART", 2 * CLASSES)  # two pictures stand for twelve: three steps are too few
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    dense = Dense(tm, prepared, labels, Loss(), 0.01)
    report = (fitted := fit(tm, prepared, labels, FitConfig(penalty=0.01, tolerance=1e-9, max_iterations=3))).report
    assert not report.converged
    assert report.iterations == 3
    assert report.residual is not None
    assert report.residual > 1e-9
    assert report.distance_bound is not None
    assert float((flat(fitted) - dense.optimum).norm()) <= report.distance_bound


def test_certificate_is_honest_beyond_single_precision():
    """In float32 the recurrence goes on falling when the residual itself no longer can: convergence is not claimed."""
    tm, tokens, labels = problem()
    single = copy.deepcopy(tm).to(torch.float32)
    prepared = single.prepare(tokens)
    report = fit(single, prepared, labels, FitConfig(penalty=1e-3, tolerance=1e-9, max_iterations=2000)).report
    assert report.residual is not None
    assert report.residual > 1e-9
    assert not report.converged
    usual = fit(single, prepared, labels, FitConfig(penalty=1e-3, tolerance=1e-3, max_iterations=2000)).report
    assert usual.converged


def test_objective_matches_the_loss_of_the_served_model():
    tm, tokens, labels = problem("full")
    prepared = tm.prepare(tokens)
    fitted = fit(tm, prepared, labels, FitConfig(alpha=2.0, kappa=7.0, penalty=0.02))
    logits = tm(images(BY_ID["vit"], count=COUNT, seed=8), fitted)
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += sum((2.0 * (f - 7.0) ** 2 if k == label else f**2) for k, f in enumerate(row)) / CLASSES
    expected = total / COUNT + 0.02 * sum(float(value.square().sum()) for value in fitted.values())
    assert fitted.report.objective == pytest.approx(expected, rel=1e-10)


def test_objective_is_least_at_the_optimum():
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    dense = Dense(tm, prepared, labels, Loss(), 0.01)
    best = fit(tm, prepared, labels, FitConfig(penalty=0.01, tolerance=1e-10, max_iterations=5000)).report.objective
    assert best is not None
    for seed in range(5):
        assert dense.objective(dense.optimum + 0.01 * flat(random_delta(tm, seed=seed))) > best


def test_start_independence():
    tm, tokens, labels = problem("full")
    prepared = tm.prepare(tokens)
    config = FitConfig(penalty=0.01, tolerance=1e-10, max_iterations=5000)
    first = fit(tm, prepared, labels, config)
    second = fit(tm, prepared, labels, config, start=random_delta(tm, seed=20, scale=3.0))
    assert float((first - second).norm() / first.norm()) < 1e-6


def test_warm_start_needs_fewer_iterations(monkeypatch):
    """Forget two of the pictures: the old solution is near the new one."""
    monkeypatch.setattr(precondition, "WHOLE", CLASSES)
    monkeypatch.setattr(precondition, "PART", 2 * CLASSES)  # with all of them one step is enough from anywhere
    tm, tokens, labels = problem("full", 24)
    prepared, config = tm.prepare(tokens), FitConfig(penalty=0.01, tolerance=1e-4, max_iterations=2000)
    old = fit(tm, prepared, labels, config)
    rest = torch.arange(2, 24)
    cold = fit(tm, prepared[rest], labels[rest], config)
    warm = fit(tm, prepared[rest], labels[rest], config, start=old)
    assert warm.report.converged
    assert warm.report.iterations < cold.report.iterations
    assert float((warm - cold).norm()) <= (warm.report.distance_bound or 0) + (cold.report.distance_bound or 0)
    again = fit(tm, prepared, labels, config, start=old)
    assert again.report.iterations == 0
    assert all(torch.equal(again[name], old[name]) for name in old)


def test_order_of_pictures_does_not_matter():
    tm, tokens, labels = problem()
    prepared, config = tm.prepare(tokens), FitConfig(penalty=0.01, tolerance=1e-10, max_iterations=5000)
    shuffled = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    first, second = fit(tm, prepared, labels, config), fit(tm, prepared[shuffled], labels[shuffled], config)
    assert float((first - second).norm() / first.norm()) < 1e-7


def test_ridge_is_deterministic():
    tm, tokens, labels = problem("full")
    first, second = (fit(tm, tm.prepare(tokens), labels) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fit_at_the_optimum_of_nothing_to_learn():
    """Targets that f_w already meets: Δw = 0, without dividing by a zero right side."""
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    met = Prepared(Loss().targets(labels, CLASSES, tm.dtype), prepared.saved, prepared.token_count)
    fitted = fit(tm, met, labels)
    assert fitted.report.converged
    assert (fitted.report.residual, fitted.report.distance_bound, fitted.report.objective) == (0.0, 0.0, 0.0)
    assert not any(value.any() for value in fitted.values())


# --- batches


@pytest.mark.parametrize("chunk", [5, 256])
def test_recomputed_batches_give_the_same_result(chunk: int, monkeypatch: pytest.MonkeyPatch):
    tm, tokens, labels = problem("full")
    config = FitConfig(penalty=0.01, tolerance=1e-8, max_iterations=2000)
    whole = fit(tm, tm.prepare(tokens), labels, config)
    monkeypatch.setattr(ridge, "CHUNK", chunk)
    kept, recomputed = (
        fit(tm, tm.prepare(tokens), labels, config),
        fit(tm, Recomputed(tm, tokens), labels, config),
    )
    assert float((kept - recomputed).norm() / kept.norm()) < 1e-6
    assert float((kept - whole).norm() / whole.norm()) < 1e-6
    if chunk > COUNT:
        assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_recomputed_batches_give_the_same_result_for_adam():
    tm, tokens, labels = problem("full")
    config = FitConfig(solver="adam", epochs=3, batch_size=5, milestones=())
    kept, recomputed = (
        fit(tm, tm.prepare(tokens), labels, config),
        fit(tm, Recomputed(tm, tokens), labels, config),
    )
    assert float((kept - recomputed).norm() / kept.norm()) < 1e-8


@pytest.mark.parametrize("size", [1, 5, 12, 100])
@pytest.mark.parametrize("kept", [True, False])
def test_batches_cover_every_picture_once_in_order(size: int, kept: bool):
    tm, tokens, _ = problem()
    pictures = tm.prepare(tokens) if kept else Recomputed(tm, tokens)
    seen = [(part, batch) for part, batch in batches(pictures, size)]
    assert [index for part, _ in seen for index in range(COUNT)[part]] == list(range(COUNT))
    assert all(len(batch) == len(range(COUNT)[part]) <= size for part, batch in seen)
    torch.testing.assert_close(torch.cat([batch.primal for _, batch in seen]), tm.prepare(tokens).primal)


# --- losses by hand


def test_rescaled_square_loss_by_hand():
    """1/K · (α (f_y − κ)² + Σ_{i≠y} f_i²)  (TAFT eq. 2)."""
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 4.0]])
    labels = torch.tensor([1, 0])
    got = Loss(kind="rsl", kappa=10.0, alpha=2.0).per_sample(logits, labels)
    torch.testing.assert_close(got, torch.tensor([(2 * 64 + 1 + 1) / 3, (2 * 90.25 + 0 + 16) / 3]))


def test_mean_squared_error_by_hand():
    logits, labels = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([1])
    # κ and α belong to the rescaled loss alone
    torch.testing.assert_close(
        Loss(kind="mse", kappa=9.0, alpha=4.0).per_sample(logits, labels), torch.tensor([3 / 3.0])
    )


def test_cross_entropy_by_hand():
    logits, labels = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([2])
    expected = math.log(math.exp(1) + math.exp(2) + math.exp(-1)) + 1
    torch.testing.assert_close(Loss(kind="ce").per_sample(logits, labels), torch.tensor([expected]))


# --- Adam


def adam_config(**changes: object) -> FitConfig:
    options: dict = {"solver": "adam", "epochs": 4, "batch_size": 5, "milestones": (2,), "penalty": 0.01, "seed": 3}
    return FitConfig(**{**options, **changes})


@pytest.mark.parametrize("loss", ["rsl", "mse", "ce"])
def test_adam_is_the_papers_recipe(loss: str):
    """Against torch.optim.Adam on the oracle's linearised network, the penalty in the loss, the rate divided by hand."""
    tm, tokens, labels = problem("norm")
    case, config = BY_ID["vit"], adam_config(loss=loss, learning_rate=1e-2)
    pictures = images(case, count=COUNT, seed=8)
    leaves = {name: value.clone().requires_grad_() for name, value in tm.zero_delta().items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-2)
    history = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 1e-2 if epoch < 2 else 1e-3
        total = 0.0
        for index in index_order(COUNT, 3, epoch).split(5):
            optimizer.zero_grad()
            primal, tangent = Reference(build(case), tm, pictures[index]).jvp(leaves)
            value = Loss(kind=loss).per_sample(primal + tangent, labels[index]).mean()
            (value + 0.01 * sum(leaf.square().sum() for leaf in leaves.values())).backward()
            optimizer.step()
            total += value.item() * len(index)
        history.append(total / COUNT)
    fitted = fit(tm, tm.prepare(tokens), labels, config)
    for name, leaf in leaves.items():
        torch.testing.assert_close(fitted[name], leaf.detach(), rtol=1e-7, atol=1e-9)
    assert fitted.report.history == pytest.approx(history, rel=1e-9)
    assert fitted.report.iterations == 4 * 3
    assert fitted.report.residual is None
    assert fitted.report.distance_bound is None
    penalty = 0.01 * float(fitted.dot(fitted))
    assert fitted.report.objective == pytest.approx(history[-1] + penalty, rel=1e-9)


def test_of_a_half_precision_model_the_delta_is_float32():
    tm = linearize(build(BY_ID["vit"]))
    tokens, labels = problem()[1:]
    prepared = tm.prepare(tokens)
    config = FitConfig(solver="adam", epochs=3)
    exact = fit(tm, prepared, labels, config)
    half = linearize(build(BY_ID["vit"])).to(torch.bfloat16)
    got = fit(half, prepared.to(torch.bfloat16), labels, config)
    assert {value.dtype for value in got.values()} == {torch.float32}
    # kept in bfloat16 a step of 1e-3 would be lost in all values that are larger than 1/4
    assert float((flat(got) - flat(exact)).norm() / flat(exact).norm()) < 0.1
    warm = fit(
        half, prepared.to(torch.bfloat16), labels, FitConfig(solver="adam", epochs=1, learning_rate=1e-12), start=got
    )
    torch.testing.assert_close(flat(warm), flat(got))
    served = half(images(BY_ID["vit"]).bfloat16(), got)  # its own delta, rounded
    torch.testing.assert_close(served, half(images(BY_ID["vit"]).bfloat16(), got.to(torch.bfloat16)))
    with pytest.raises(UsageError, match=r"bfloat16.*float32"):
        fit(half, prepared.to(torch.bfloat16), labels, FitConfig())


def test_a_step_that_cannot_be_recorded_is_taken(monkeypatch: pytest.MonkeyPatch):
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    recipe = FitConfig(solver="adam").as_recipe()

    class Refusing:
        def __init__(self, step, numbers):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(adam, "Graph", Refusing)
    steps = [adam.AdamStep(tm, prepared, labels, Loss(), recipe, start=tm.zero_delta()) for _ in range(2)]
    steps[0]._graphs = {}  # as on a GPU
    for epoch in range(5):
        numbers = index_order(COUNT, 0, epoch)[:4]
        for step in steps:
            step(numbers, numbers)
    assert steps[0]._graphs is None
    assert all(torch.equal(steps[0].leaves[name], steps[1].leaves[name]) for name in steps[0].leaves)
    assert torch.equal(steps[0].total, steps[1].total)


def test_where_the_whole_kernel_does_not_fit_a_part_stands_for_it(monkeypatch: pytest.MonkeyPatch):
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    expected = fit(tm, prepared, labels, FitConfig(tolerance=1e-10))
    asked: list[int] = []

    def full(tm: TangentModel, parts: list[Prepared]):
        asked.append(len(parts[0]))
        if len(parts[0]) == COUNT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return jacobian_rows(tm, parts)

    monkeypatch.setattr(precondition, "jacobian_rows", full)
    monkeypatch.setattr(precondition, "WHOLE", CLASSES)
    monkeypatch.setattr(precondition, "PART", 2 * CLASSES)
    monkeypatch.setattr(precondition, "whole", lambda device: COUNT * CLASSES)
    got = fit(tm, prepared, labels, FitConfig(tolerance=1e-10))
    assert asked == [COUNT, 2]
    torch.testing.assert_close(flat(got), flat(expected))


def test_adam_comes_near_the_ridge_optimum():
    tm, tokens, labels = problem("full")
    prepared = tm.prepare(tokens)
    best = fit(tm, prepared, labels, FitConfig(penalty=0.01, tolerance=1e-8, max_iterations=5000)).report.objective
    at_zero = float(Loss().per_sample(prepared.primal, labels).mean())

    def objective(delta: Delta) -> float:
        value = Loss().per_sample(prepared.primal + tm.tangent(prepared, delta), labels).mean()
        return float(value) + 0.01 * float(delta.dot(delta))

    reached = [
        objective(
            fit(tm, prepared, labels, adam_config(epochs=epochs, batch_size=COUNT, milestones=(), learning_rate=0.01))
        )
        for epochs in (5, 50, 400)
    ]
    assert best is not None
    assert at_zero > reached[0] > reached[1] > reached[2] >= best
    assert reached[2] - best < 0.02 * (at_zero - best)


def test_adam_learns_by_cross_entropy():
    tm, tokens, labels = problem("full")
    fitted = fit(tm, tm.prepare(tokens), labels, adam_config(loss="ce", epochs=10, learning_rate=0.01, penalty=0.0))
    assert fitted.report.history[-1] < 0.5 * fitted.report.history[0]


def test_adam_depends_on_the_order_alone():
    """Renumber the pictures and let the order follow them: the same steps, the same bits."""
    tm, tokens, labels = problem("full")
    prepared = tm.prepare(tokens)
    renumbered = torch.randperm(COUNT, generator=torch.Generator().manual_seed(4))
    where = torch.argsort(renumbered)
    asked: list[tuple[int, int, int]] = []

    def followed(count: int, seed: int, epoch: int) -> Tensor:
        asked.append((count, seed, epoch))
        return where[index_order(count, seed, epoch)]

    first = fit(tm, prepared, labels, adam_config())
    second = fit(tm, prepared[renumbered], labels[renumbered], adam_config(), order=followed)
    other = fit(tm, prepared, labels, adam_config(seed=4))
    assert asked == [(COUNT, 3, epoch) for epoch in range(4)]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_index_order():
    for seed in (0, 1, -1, 2**62, 10**30):
        orders = [index_order(50, seed, epoch) for epoch in range(3)]
        assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
        assert torch.equal(orders[1], index_order(50, seed, 1))
        assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(index_order(50, 0, 0), index_order(50, 1, 0))


def test_adam_starts_where_it_is_told():
    tm, tokens, labels = problem()
    start = random_delta(tm, seed=30)
    before = {name: value.clone() for name, value in start.items()}
    near = fit(tm, tm.prepare(tokens), labels, adam_config(epochs=1, learning_rate=1e-9), start=start)
    assert float((near - start).norm()) < 1e-6
    assert all(torch.equal(start[name], before[name]) for name in before)  # the start is not written to


@pytest.mark.parametrize(("solver", "most"), [("ridge", 300), ("adam", 12)])
def test_progress_is_reported(solver: str, most: int):
    tm, tokens, labels = problem()
    seen: list[tuple[int, int]] = []
    config = adam_config(solver=solver)
    fitted = fit(tm, tm.prepare(tokens), labels, config, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(step, most) for step in range(1, fitted.report.iterations + 1)]
    assert fitted.report.solver == solver
    assert fitted.report.seconds > 0


# --- what is refused


@pytest.mark.parametrize("labels", [[0] * 11 + [CLASSES], [-1] + [0] * 11])
def test_labels_outside_the_classes(labels: list[int]):
    tm, tokens, _ = problem()
    with pytest.raises(DataError, match=r"labels \[(5|-1)\] are outside the 5 classes 0\.\.4"):
        fit(tm, tm.prepare(tokens), torch.tensor(labels))


def test_labels_of_another_number():
    tm, tokens, labels = problem()
    with pytest.raises(UsageError, match="12 pictures, but 11 labels"):
        fit(tm, tm.prepare(tokens), labels[:-1])


@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_no_pictures_give_zero(solver: str):
    tm, tokens, labels = problem()
    fitted = fit(tm, tm.prepare(tokens)[:0], labels[:0], FitConfig(solver=solver))
    assert list(fitted) == list(tm.zero_delta())
    assert not any(value.any() for value in fitted.values())
    assert (fitted.report.samples, fitted.report.iterations, fitted.report.distance_bound) == (0, 0, 0.0)


def test_one_picture():
    tm, tokens, labels = problem()
    fitted = fit(tm, tm.prepare(tokens[:1]), labels[:1], FitConfig(tolerance=1e-8))
    assert fitted.report.converged
    assert fitted.report.samples == 1


def test_start_of_another_linearisation():
    tm, tokens, labels = problem()
    with pytest.raises(DeltaMismatch, match="warm start: "):
        fit(tm, tm.prepare(tokens), labels, start=random_delta(linearize(build(BY_ID["vit"]), last_blocks=2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "newton"}, "solver='newton': expected one of ridge, adam"),
        ({"loss": "hinge"}, "loss='hinge': expected one of rsl, mse, ce"),
        ({"loss": "ce"}, "loss='ce' is not least squares; use solver='adam', or loss='rsl' or 'mse'"),
        ({"penalty": 0.0}, "penalty=0.0: ridge needs > 0"),
        ({"penalty": math.nan}, "penalty=nan"),
        ({"penalty": math.nan, "solver": "adam"}, "penalty must be >= 0"),
        ({"penalty": -1.0, "solver": "adam"}, "penalty must be >= 0"),
        ({"tolerance": 0.0}, "tolerance and learning_rate > 0"),
        ({"tolerance": math.nan}, "tolerance and learning_rate > 0"),
        ({"learning_rate": -1.0}, "tolerance and learning_rate > 0"),
        ({"kappa": 0.0}, "kappa=0.0, alpha=1.0: expected both > 0"),
        ({"alpha": -1.0}, "alpha=-1.0: expected both > 0"),
        ({"max_iterations": 0}, "must be >= 1"),
        ({"epochs": 0}, "must be >= 1"),
        ({"batch_size": 0}, "must be >= 1"),
    ],
)
def test_config_is_validated(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        FitConfig(**options)


def test_config_accepts_adam_without_penalty_and_any_loss():
    for loss in ("rsl", "mse", "ce"):
        assert FitConfig(solver="adam", penalty=0.0, loss=loss).as_loss().kind == loss


# --- projection


@pytest.mark.parametrize("penalty", [0.0, 0.01])
def test_projection_keeps_delta_in_the_ball(penalty: float):
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    config = {"solver": "adam", "epochs": 4, "batch_size": 5, "penalty": penalty}
    free = fit(tm, prepared, labels, FitConfig(**config))
    radius = float(free.norm()) / 3
    held = fit(tm, prepared, labels, FitConfig(**config, radius=radius))
    assert float(held.norm()) == pytest.approx(radius, rel=1e-12)  # the free one wants out, so it ends on the surface
    wide = fit(tm, prepared, labels, FitConfig(**config, radius=1e6))
    assert all(torch.equal(wide[name], value) for name, value in free.items())


def test_projection_is_the_nearest_point_of_the_ball():
    """One step of Adam from zero, by hand: the same direction, shortened."""
    tm, tokens, labels = problem()
    prepared = tm.prepare(tokens)
    config = {"solver": "adam", "epochs": 1, "batch_size": COUNT}
    free, held = (fit(tm, prepared, labels, FitConfig(**config, radius=radius)) for radius in (None, 1e-3))
    shortened = free * (1e-3 / float(free.norm()))
    assert all(torch.allclose(held[name], value, rtol=1e-12, atol=0) for name, value in shortened.items())


@pytest.mark.parametrize(
    "config", [{"radius": 0.0, "solver": "adam"}, {"radius": float("nan"), "solver": "adam"}, {"radius": 1.0}]
)
def test_impossible_radius_is_refused(config):
    with pytest.raises(UsageError, match="--radius"):
        FitConfig(**config)
