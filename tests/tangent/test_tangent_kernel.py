"""The tangent kernel against the Jacobian itself, and what it does for the ridge solver."""

from typing import Any

import pytest
import torch
from cases import BY_ID, CLASSES, build, images
from test_tangent_fit import Dense, flat, jacobian, problem
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent import FitConfig, Loss, TangentModel, fit, linearize, precondition, ridge
from taft_ray.tangent.kernel import JacobianRows

NO_RULE = "vit-swiglu-unpacked"  # its MLP goes through the fallback
SHORT_CUTS = sorted(case.id for case in BY_ID.values() if case.short_cut and case.id != NO_RULE)


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
    assert float((JacobianRows(tm, prepared).gram() - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize("options", [{"cls_token": True}, {"trainable": "norm"}, {"trainable": "head"}], ids=str)
def test_kernel_counts_what_is_trained(options: dict[str, Any]) -> None:
    tm, tokens = tangent_model("vit", **options)
    prepared = tm.prepare(tokens)
    rows = jacobian(tm, prepared)
    expected = rows @ rows.T
    assert float((JacobianRows(tm, prepared).gram() - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize("case", ["vit-avg", "vit-qk-norm", "resnet-basic", NO_RULE])
def test_where_rows_do_not_come_apart_it_is_refused_and_solved_without(case: str) -> None:
    tm, tokens = tangent_model(case)
    with pytest.raises(UnsupportedModel, match=r"sees .* tokens|without a rule"):
        JacobianRows(tm, tm.prepare(tokens))
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
