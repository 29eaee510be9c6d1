"""The tangent kernel against the Jacobian itself, and what it does for the ridge solver."""

import importlib
from typing import Any

import pytest
import timm
import torch
from cases import BY_ID, CLASSES, build, images, random_delta, random_like
from dense import Dense, flat, jacobian, problem
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.fitting import FitConfig, Loss, fit, fit_many, precondition, ridge
from taft_ray.tangent import Delta, TangentModel, kernel, linearize
from taft_ray.tangent.kernel import PASS, jacobian_rows

fit_module = importlib.import_module("taft_ray.fitting.solvers")  # the package has a function of that name
NO_RULE = "vit-swiglu-of-celu"  # its MLP goes through the fallback
SHORT_CUTS = sorted(case.id for case in BY_ID.values() if case.short_cut and not case.placed and case.id != NO_RULE)


def tangent_model(case: str, **options: object) -> tuple[TangentModel, Tensor]:
    tm = linearize(build(BY_ID[case]), **options)  # type: ignore[arg-type]  # linearize's own
    return tm, tm.prefix(images(BY_ID[case], count=4, seed=8))


@pytest.mark.parametrize("case", SHORT_CUTS)
@pytest.mark.parametrize("trainable", ["full", "bitfit"])
def test_kernel_is_the_jacobian_times_itself(case: str, trainable: str) -> None:
    tm, tokens = tangent_model(case, trainable=trainable)
    prepared = tm.prepare(tokens)
    rows = jacobian(tm, prepared)
    expected = rows @ rows.T
    assert float((jacobian_rows(tm, [prepared])[0].gram() - expected).abs().max()) <= 1e-12 * float(
        expected.abs().max()
    )


@pytest.mark.parametrize("options", [{"cls_token": True}, {"trainable": "norm"}, {"trainable": "head"}], ids=str)
def test_kernel_counts_what_is_trained(options: dict[str, Any]) -> None:
    tm, tokens = tangent_model("vit", **options)
    prepared = tm.prepare(tokens)
    rows = jacobian(tm, prepared)
    expected = rows @ rows.T
    assert float((jacobian_rows(tm, [prepared])[0].gram() - expected).abs().max()) <= 1e-12 * float(
        expected.abs().max()
    )


@pytest.mark.parametrize("case", SHORT_CUTS)
@pytest.mark.parametrize("options", [{}, {"trainable": "bitfit"}, {"trainable": "norm"}], ids=str)
def test_rows_are_the_jacobian(case: str, options: dict[str, Any]) -> None:
    """J·Δ and Jᵀ·u from the factors against the passes through the network."""
    tm, tokens = tangent_model(case, **options)
    prepared = tm.prepare(tokens)
    rows = jacobian_rows(tm, [prepared])[0]
    delta = random_delta(tm)
    tangent = tm.tangent(prepared, delta)
    torch.testing.assert_close(rows.jvp(delta), tangent, rtol=1e-10, atol=1e-12 * float(tangent.abs().max()))
    cotangent = random_like(tangent)
    expected = tm.vjp(prepared, cotangent)
    assert float((rows.vjp(cotangent) - expected).norm()) <= 1e-12 * float(expected.norm())


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_which_shards_are_fitted_together(threads: int) -> None:
    """Sizes below, at and above a pass, and an empty one; in float32, where every other order of a sum shows."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tm = linearize(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=7))
        shards = []
        for size in (3, PASS, 0, 2 * PASS + 5, 1):
            tokens = tm.prefix(torch.randn(size, 3, 64, 64, generator=torch.Generator().manual_seed(size)))
            shards.append((tm.prepare(tokens), torch.arange(size) % 7))
        config = FitConfig(penalty=0.01, tolerance=1e-6)
        alone = [fit(tm, pictures, labels, config) for pictures, labels in shards]
        for together in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0], [1, 1]):
            for number, delta in zip(together, fit_many(tm, [shards[i] for i in together], config), strict=True):
                assert delta.report.samples == len(shards[number][1])
                assert all(torch.equal(value, alone[number][name]) for name, value in delta.items()), number
    finally:
        torch.set_num_threads(before)


def test_shards_are_fitted_together_where_rows_do_not_come_apart_and_by_adam() -> None:
    tm, tokens = tangent_model("vit-avg")
    shards = [(tm.prepare(tokens[:3]), torch.arange(3)), (tm.prepare(tokens[3:]), torch.arange(1))]
    for config in (FitConfig(penalty=0.1, max_iterations=20), FitConfig(solver="adam", epochs=2)):
        for delta, (pictures, labels) in zip(fit_many(tm, shards, config), shards, strict=True):
            expected: Delta = fit(tm, pictures, labels, config)
            assert all(torch.equal(value, expected[name]) for name, value in delta.items())


@pytest.mark.parametrize("case", ["vit-avg", "vit-qk-norm", "resnet-basic", "rope-token", NO_RULE])
def test_where_rows_do_not_come_apart_it_is_refused_and_solved_without(case: str) -> None:
    tm, tokens = tangent_model(case)
    with pytest.raises(UnsupportedModel, match=r"sees .* tokens|without a rule|turns or normalises its keys"):
        jacobian_rows(tm, [tm.prepare(tokens)])
    labels = torch.arange(4) % CLASSES
    report = fit(tm, tm.prepare(tokens), labels, FitConfig(penalty=0.1, tolerance=1e-6, max_iterations=3000)).report
    assert report.converged


@pytest.mark.parametrize(("penalty", "trainable"), [(1.0, "norm"), (1e-2, "norm"), (1e-4, "norm"), (1e-2, "full")])
def test_with_the_whole_kernel_one_step_is_the_optimum(penalty: float, trainable: str) -> None:
    loss = Loss(kappa=5.0, alpha=3.0)
    tm, tokens, labels = problem(trainable)
    prepared = tm.prepare(tokens)
    dense = Dense(tm, prepared, labels, loss, penalty)
    config = FitConfig(penalty=penalty, tolerance=1e-8, kappa=loss.kappa, alpha=loss.alpha)
    fitted = fit(tm, prepared, labels, config)
    assert fitted.report.iterations <= 2
    assert float((flat(fitted) - dense.optimum).norm()) <= 1e-6 * float(dense.optimum.norm())


def test_with_a_part_of_the_kernel_fewer_steps_reach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tm, tokens, labels = problem("full", count=40)
    prepared, config = tm.prepare(tokens), FitConfig(penalty=1e-3, tolerance=1e-9, max_iterations=3000)
    monkeypatch.setattr(precondition, "WHOLE", 0)
    monkeypatch.setattr(precondition, "PART", 30 * CLASSES)
    part = fit(tm, prepared, labels, config)
    monkeypatch.setattr(ridge, "preconditioner", lambda *_: lambda residual: residual)
    plain = fit(tm, prepared, labels, config)
    assert part.report.converged
    assert plain.report.converged
    assert part.report.iterations < 0.6 * plain.report.iterations
    assert float((part - plain).norm()) <= 1e-6 * float(plain.norm())


def test_what_is_too_much_is_refused_before_much_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where passes are large, as on a GPU: of a shard that is refused only one picture's constants are gathered."""
    monkeypatch.setattr(kernel, "pass_size", lambda tm: 2 * PASS)
    tm = linearize(build(BY_ID["vit"]), last_blocks=2)  # the block before the last sees all tokens
    monkeypatch.setattr(kernel, "MOST_ROWS", 1)
    prepared = tm.prepare(tm.prefix(images(BY_ID["vit"], count=12, seed=8)))
    gathered: list[int] = []
    select = Tensor.index_select
    monkeypatch.setattr(
        Tensor, "index_select", lambda self, dim, index: gathered.append(len(index)) or select(self, dim, index)
    )
    with pytest.raises(UnsupportedModel):
        jacobian_rows(tm, [prepared[torch.arange(12)]])
    selected = [count for count in gathered if count > 1]
    assert len(selected) == 1  # the twelve pictures' own outputs


@pytest.mark.parametrize("pass_pictures", [PASS, 2 * PASS])
def test_rows_of_selected_pictures_are_theirs(monkeypatch: pytest.MonkeyPatch, pass_pictures: int) -> None:
    monkeypatch.setattr(kernel, "pass_size", lambda tm: pass_pictures)
    tm = linearize(build(BY_ID["vit"]))
    prepared = tm.prepare(tm.prefix(images(BY_ID["vit"], count=40, seed=8)))
    index = torch.tensor([31, 2, 2, 17, 39, 0])
    (rows,) = jacobian_rows(tm, [prepared[torch.arange(40)][index]])
    (expected,) = jacobian_rows(tm, [prepared[index].to(torch.float64)])  # each constant in memory of its own
    assert torch.equal(rows.gram(), expected.gram())


def test_shards_for_which_memory_is_short_together_are_fitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tm, tokens, labels = problem(count=12)
    shards = [(tm.prepare(tokens[part]), labels[part]) for part in (slice(0, 5), slice(5, 12))]
    config = FitConfig(tolerance=1e-8)
    expected = fit_many(tm, shards, config)

    def full(tm: TangentModel, parts: list[Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit_module, "jacobian_rows", full)
    for got, wanted in zip(fit_many(tm, shards, config), expected, strict=True):
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
