"""Gradients of pictures and of units in factors, against those that torch.func takes of timm's own network."""

from typing import Any

import pytest
import torch
from cases import BY_ID, Reference, build, images, random_delta, random_like, relative
from dense import flat
from torch import Tensor

from taft_ray.errors import UnsupportedModel
from taft_ray.tangent import Delta, TangentModel, linearize
from taft_ray.tangent.gradient_passes import KeptRows, NetworkPasses, UnitPasses, blocks, unit_passes
from taft_ray.tangent.kernel import jacobian_rows
from taft_ray.tangent.trained import Entry
from taft_ray.tangent.unit_gradients import BLOCK, Inputs, Layout, UnitGradients

COUNT = 6
UNITS = torch.tensor([4, 0, 4, 2, 4, 2])  # owners of one, two and three pictures
REGIMES: list[tuple[str, dict[str, Any]]] = [
    *(("vit", {"trainable": trainable}) for trainable in ("full", "bitfit", "norm", "head")),
    *(("vit", {"trainable": trainable, "last_blocks": 2}) for trainable in ("full", "bitfit", "norm")),
    ("vit", {"cls_token": True}),
    ("vit", {"cls_token": True, "last_blocks": 2}),
    ("vit-avg", {}),
    ("deit-distilled", {}),
    ("deit-distilled", {"trainable": "norm"}),
    ("deit-distilled", {"trainable": "bitfit", "cls_token": True}),
    ("dinov2-registers", {}),
    ("eva02-avg", {}),
    ("vit-qk-norm", {}),
    ("beitv2-token", {}),
]  # fmt: skip
OF_EACH_KIND = [REGIMES[place] for place in (0, 2, 5, 8, 10)]  # rows, vectors, many rows, a class token, two rows


def per_picture(case: str, tm: TangentModel, cotangent: Tensor) -> Tensor:
    """(B, P): torch.func's transpose of the network itself, a picture at a time."""
    network, found = build(BY_ID[case]), []
    for picture, row in zip(images(BY_ID[case], count=len(cotangent), seed=8), cotangent, strict=True):
        reference = Reference(network, tm, picture[None])
        transpose = torch.func.vjp(reference, reference.trained)[1]
        found.append(flat(Delta(transpose(row[None])[0])))
    return torch.stack(found)


def gathered(
    passes: UnitPasses, tm: TangentModel, delta: Delta, cotangent: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Norms and gradients (U, P) as written out, each unit in the passes' order, and the pictures of each."""
    norms, written, members = [], [], []
    with torch.no_grad():
        for block, gradients in passes(delta, lambda logits, numbers: cotangent[numbers]):
            norms.append(gradients.norms())
            for unit in range(len(gradients)):
                one = {name: torch.zeros_like(value) for name, value in tm.zero_delta().items()}
                gradients.write(unit, one, first=True)
                written.append(flat(Delta(one)))
                members.append(block.index[unit * block.size : (unit + 1) * block.size])
    return torch.cat(norms), torch.stack(written), members


@pytest.mark.parametrize(
    ("case", "options", "units"),
    [(*regime, None) for regime in REGIMES] + [(*regime, UNITS) for regime in OF_EACH_KIND],
    ids=lambda value: "owners" if isinstance(value, Tensor) else str(value),
)
def test_norms_and_gradients_are_those_of_torch_func(case: str, options: dict[str, Any], units: Tensor | None) -> None:
    tm = linearize(build(BY_ID[case]), **options)
    prepared = tm.prepare(tm.prefix(images(BY_ID[case], count=COUNT, seed=8)))
    cotangent = random_like(prepared.primal)
    expected = per_picture(case, tm, cotangent)
    for budget in (0, 1 << 40):
        norms, written, members = gathered(unit_passes(tm, prepared, units, budget), tm, random_delta(tm), cotangent)
        wanted = torch.stack([expected[pictures].sum(0) for pictures in members])
        assert relative(written, wanted) <= 1e-10
        torch.testing.assert_close(norms, wanted.norm(dim=1), rtol=1e-6, atol=0)
        assert sorted(torch.cat(members).tolist()) == list(range(COUNT))


@pytest.mark.parametrize("trainable", ["full", "norm"])
def test_norms_are_those_of_each_pictures_own_kernel(trainable: str) -> None:
    tm = linearize(build(BY_ID["vit"]), trainable=trainable)
    prepared = tm.prepare(tm.prefix(images(BY_ID["vit"], count=COUNT, seed=8)))
    cotangent = random_like(prepared.primal)
    (rows,) = jacobian_rows(tm, [prepared])
    classes = tm.num_classes
    kernel = rows.gram().view(COUNT, classes, COUNT, classes).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    expected = torch.einsum("bk,bkl,bl->b", cotangent, kernel, cotangent).sqrt()
    norms, _, _ = gathered(unit_passes(tm, prepared, None, 1 << 40), tm, random_delta(tm), cotangent)
    torch.testing.assert_close(norms, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("budget", [0, 1 << 40])
@pytest.mark.parametrize(("case", "options"), OF_EACH_KIND, ids=str)
def test_residuals_are_given_the_tangent(case: str, options: dict[str, Any], budget: int) -> None:
    tm = linearize(build(BY_ID[case]), **options)
    prepared = tm.prepare(tm.prefix(images(BY_ID[case], count=COUNT, seed=8)))
    delta, seen = random_delta(tm), torch.zeros_like(prepared.primal)

    def residual(logits: Tensor, numbers: Tensor) -> Tensor:
        seen[numbers] = logits
        return logits

    with torch.no_grad():
        for _ in unit_passes(tm, prepared, UNITS, budget)(delta, residual):
            pass
    assert relative(seen, tm.tangent(prepared, delta)) <= 1e-10


@pytest.mark.parametrize("units", [None, UNITS], ids=["samples", "owners"])
@pytest.mark.parametrize(
    ("case", "options"),
    [("vit", {}), ("deit-distilled", {}), ("vit", {"last_blocks": 2, "trainable": "bitfit"})],
    ids=str,
)
def test_weighted_sums_are_rounded_sums_of_gradients(case: str, options: dict[str, Any], units: Tensor | None) -> None:
    tm = linearize(build(BY_ID[case]), **options)
    prepared = tm.prepare(tm.prefix(images(BY_ID[case], count=COUNT, seed=8)))
    cotangent, scale = random_like(prepared.primal), 1e6
    for budget in (0, 1 << 40):
        total = {name: torch.zeros_like(value) for name, value in tm.zero_delta().items()}
        expected = torch.zeros(tm.zero_delta().numel(), dtype=torch.float64)
        passes = unit_passes(tm, prepared, units, budget)
        for _, gradients in passes(random_delta(tm), lambda logits, numbers: cotangent[numbers]):
            weights = torch.arange(len(gradients), dtype=torch.float64) * scale  # the first one's is zero
            weights[-1] = scale
            for unit in range(len(gradients)):
                one = {name: torch.zeros_like(value) for name, value in total.items()}
                gradients.write(unit, one, first=True)
                expected += weights[unit] * flat(Delta(one))
            with torch.no_grad():
                gradients.add_rounded(total, weights)  # which uses them up
        got = flat(Delta(total))
        assert torch.equal(got, got.round())
        assert float((got - expected).abs().max()) <= 0.51 * len(blocks(COUNT, units, 512))
        assert float(expected.abs().max()) > 100


def test_paths_are_what_their_budget_says() -> None:
    tm = linearize(build(BY_ID["vit"]))
    prepared = tm.prepare(tm.prefix(images(BY_ID["vit"], count=COUNT, seed=8)))
    (rows,) = jacobian_rows(tm, [prepared])
    size = sum(factor.inputs.nbytes + factor.outputs.nbytes for factor in rows.factors)
    size += sum(values.nbytes for values in rows.vectors.values()) + prepared.nbytes()
    assert isinstance(unit_passes(tm, prepared, None, size), KeptRows)
    assert isinstance(unit_passes(tm, prepared, None, size - 1), NetworkPasses)
    two = linearize(build(BY_ID["vit"]), last_blocks=2)
    assert isinstance(unit_passes(two, two.prepare(two.prefix(images(BY_ID["vit"]))), None, 1 << 40), NetworkPasses)


@pytest.mark.parametrize("case", ["resnet-basic", "rope-token", "vit-swiglu-of-celu"])
def test_networks_whose_gradients_do_not_come_apart_are_refused(case: str) -> None:
    tm = linearize(build(BY_ID[case]))
    prepared = tm.prepare(tm.prefix(images(BY_ID[case], count=2)))
    with pytest.raises(UnsupportedModel, match=r"private fit needs .* (without a rule|turns or normalises)"):
        unit_passes(tm, prepared, None, 1 << 40)


def entry(
    start: int, stop: int, weight: str | None = "w", bias: str | None = "b", *, transposed: bool = False
) -> Entry:
    return Entry(weight, bias, start, stop, 1, transposed)


def of_sites(sites: list[tuple[Entry, Tensor, Tensor]]) -> UnitGradients:
    """One picture's gradient; for each site its inputs and derivatives, (R, in) and (R, out)."""
    layout = Layout([(place, (len(b), 1, b.shape[1])) for place, _, b in sites], {})
    inputs = layout.inputs([a[None, :, None] for _, a, _ in sites])
    back = layout.flat([b[None, :, None] for _, _, b in sites], {})
    return UnitGradients(Inputs(layout, inputs, 1, 1, back.device), back)


def test_a_layer_that_is_used_twice_has_the_norm_of_its_sum() -> None:
    a, b = (random_like(torch.zeros(2, 1, size, dtype=torch.float64)) for size in (3, 4))
    a[1], b[1] = a[0] + 0.1 * a[1], b[0] + 0.1 * b[1]
    shared = of_sites([(entry(0, 4), a[0], b[0]), (entry(0, 4), a[1], b[1])])
    matrix, shift = b[0].T @ a[0] + b[1].T @ a[1], (b[0] + b[1])[0]
    expected = torch.cat([matrix.flatten(), shift]).norm()
    assert float(shared.norms()) == pytest.approx(float(expected), rel=1e-8)
    apart = sum(float((b[use].norm() ** 2) * (a[use].norm() ** 2 + 1)) for use in range(2)) ** 0.5
    assert abs(apart - float(expected)) > 0.05 * float(expected)
    biases = of_sites([(entry(0, 4, None), a[0], b[0]), (entry(0, 4, None), a[1], b[1])])
    assert float(biases.norms()) == pytest.approx(float(shift.norm()), rel=1e-12)


@pytest.mark.parametrize(
    "second",
    [entry(2, 6), entry(0, 4, transposed=True), entry(0, 4, None), entry(3, 5, "v"), entry(0, 4, "w", None)],
    ids=str,
)
def test_places_that_share_a_part_of_a_parameter_are_refused(second: Entry) -> None:
    with pytest.raises(UnsupportedModel, match="in different ways"):
        Layout([(entry(0, 4), (1, 1, 4)), (second, (1, 1, 4))], {})
    with pytest.raises(UnsupportedModel, match="in different ways"):
        Layout([(entry(0, 4), (1, 1, 4))], {"b": 6})
    Layout([(entry(0, 4), (1, 1, 4)), (entry(4, 8), (1, 1, 4)), (entry(0, 4, "v", "c"), (1, 1, 4))], {"d": 6})


def test_rows_that_cancel_never_have_too_small_a_norm() -> None:
    """Two rows of 1e6 whose difference is 1e-9: their products, in float64 too, do not know it."""
    a = torch.ones(2, 3, dtype=torch.float64)
    b = torch.tensor([[1e6, 2.0], [-1e6, -2.0 + 1e-9]], dtype=torch.float64)
    gradients = of_sites([(entry(0, 2), a, b)])
    exact = (b.T @ a).norm() * (1 + 1 / 3) ** 0.5
    assert float(gradients.norms()) >= float(exact)


def test_every_picture_is_in_one_block_and_units_stay_together() -> None:
    units = torch.tensor([7, 3, 3, 7, 7, 1, 9, 9, 7, 7, 7, 7, 7])  # of 8, 2, 1 and 2 pictures
    found = blocks(len(units), units, 4)
    assert sorted(torch.cat([block.index for block in found]).tolist()) == list(range(13))
    assert [(block.size, len(block.index), block.first, block.last) for block in found] == [
        (1, 1, True, True),
        (2, 4, True, True),
        (4, 4, True, False),
        (4, 4, False, True),
    ]
    assert all(len(units[block.index].unique()) == len(block.index) // block.size for block in found)
    assert [len(block.index) for block in blocks(9, None, 4)] == [4, 4, 1]
    assert blocks(0, None, 4)[0].index.tolist() == []
    assert BLOCK % 2 == 0
