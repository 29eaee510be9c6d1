"""Sites, projection and rows of networks of every family."""

import numpy as np
import pytest
import torch
from cases import BY_ID, Case, build, images
from families import GENERAL
from torch import nn

from taft_ray.additive import (
    AdditiveModel,
    AdditiveNetwork,
    Projection,
    Sites,
    Sums,
    rows_of,
    site_vectors,
    sites_of,
    to_rows,
)
from taft_ray.additive.projection import LENGTH
from taft_ray.additive.sites import default_blocks, normalised
from taft_ray.errors import DataError, DeltaMismatch, TaftError, UnsupportedModel, UsageError

SEVERAL = [BY_ID[name] for name in sorted(BY_ID)] + GENERAL
SIZE = 24


def sites_for(case: Case, **options) -> Sites:
    options = {"size": SIZE, "last_blocks": 2, **options}
    return sites_of(build(case), (case.height or case.image_size, case.image_size), **options)


@pytest.mark.parametrize("case", SEVERAL, ids=lambda case: case.id)
def test_every_family_has_rows(case: Case):
    sites = sites_for(case)
    assert sites.size == SIZE
    assert sum(group.weight for group in sites.groups) == pytest.approx(1)
    assert any(member.endswith("class") for group in sites.groups for member in group.members) or not case.class_token
    rows = rows_of(build(case), Projection(sites), images(case))
    assert rows.dtype == np.int16
    assert rows.shape == (3, SIZE)
    assert len(np.unique(rows, axis=0)) == 3
    assert np.square(rows, dtype=np.int64).sum(1).max() <= 2**30


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_sites_are_what_passes_the_blocks(name: str):
    case = next(case for case in SEVERAL if case.id.startswith(name))
    network, given = build(case), images(case)
    sites = sites_for(case, last_blocks=1, size=2)
    (found,) = site_vectors(network, sites, given)
    kept = []
    handle = network.get_submodule(sites.groups[0].name).register_forward_hook(
        lambda _, __, result: kept.append(result)
    )
    with torch.inference_mode():
        network(given)
    handle.remove()
    (value,) = kept
    if value.ndim == 4:
        parts, grid = [], value.permute(0, 2, 3, 1)
    else:
        side = round((value.shape[1] - 1) ** 0.5)
        parts, grid = [normalised(value[:, :1])], value[:, 1:].unflatten(1, (side, side))
    half = (grid.shape[1] + 1) // 2
    corners = [
        grid[:, a, b].mean((1, 2)) for a in (slice(half), slice(half, None)) for b in (slice(half), slice(half, None))
    ]
    parts.append(normalised(torch.stack(corners, 1)))
    parts.append(normalised(grid.flatten(1, 2).std(1, correction=0, keepdim=True)))
    expected = torch.cat([part.flatten(1) for part in parts], 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_every_site_is_normalised_by_itself():
    vectors = normalised(100 + 7 * torch.randn(5, 4, 192))
    assert torch.allclose(vectors.mean(-1), torch.zeros(5, 4), atol=1e-6)
    assert torch.allclose(vectors.flatten(1).norm(dim=1), torch.ones(5), atol=1e-5)
    assert float(normalised(torch.full((2, 1, 8), 3.0)).abs().max()) == 0  # a constant has no direction


def test_hidden_sites_and_means():
    case = BY_ID["vit"]
    sites = sites_for(case, members=["hidden.class", "hidden.mean", "output.mean"])
    assert sites.groups[0].members == ("hidden.class", "hidden.mean", "output.mean")
    assert sites.groups[0].width == 2 * 96 + 24
    assert rows_of(build(case), Projection(sites), images(case)).shape == (3, SIZE)


def test_seven_blocks_of_twelve_by_default():
    assert [default_blocks(units) for units in (1, 2, 3, 4, 6, 12, 24)] == [1, 2, 2, 3, 4, 7, 14]
    assert len(sites_for(BY_ID["vit"], last_blocks=None).groups) == 2


def test_sites_are_stored_as_json():
    sites = sites_for(BY_ID["vit"])
    again = Sites.from_json(sites.to_json())
    assert again == sites
    assert Projection(again).digest == Projection(sites).digest
    assert Projection(again, seed=1).digest != Projection(sites).digest


def test_narrow_groups_leave_their_share_to_others():
    case = next(case for case in SEVERAL if case.id.startswith("resnet"))
    widths = [group.width for group in sites_for(case, last_blocks="all", size=4).groups]
    sites = sites_for(case, last_blocks="all", size=sum(widths) - 1)
    assert sites.size == sum(widths) - 1
    assert all(group.kept <= group.width for group in sites.groups)
    whole = sites_for(case, last_blocks="all", size=sum(widths))
    assert [group.kept for group in whole.groups] == widths


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 10**6}, "as many numbers as the sites have"),
        ({"size": 0}, "expected 1"),
        ({"size": 1}, "a number per block"),
        ({"last_blocks": 0}, "at least one of the blocks"),
        ({"last_blocks": 9}, "expected"),
        ({"members": ["output.corners"]}, "members"),
        ({"members": []}, "members"),
    ],
)
def test_impossible_options_are_refused(options: dict, said: str):
    with pytest.raises(UsageError, match=said):
        sites_for(BY_ID["vit"], **options)


def test_networks_without_blocks_are_refused():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def get_classifier(self) -> nn.Module:
            return self.head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean((2, 3)))

    with pytest.raises(UnsupportedModel, match="no numbered blocks or stages"):
        sites_of(Plain(), 8, size=1)


def test_networks_without_the_members_are_refused():
    case = next(case for case in SEVERAL if case.id.startswith("resnet"))
    with pytest.raises(UnsupportedModel, match=r"has none of hidden\.mean"):
        sites_for(case, members=["hidden.mean"])


def test_sites_of_another_network_are_refused():
    sites = sites_for(BY_ID["vit"])
    other = next(case for case in SEVERAL if case.id.startswith("convnext"))
    with pytest.raises((UsageError, AttributeError)):
        site_vectors(build(other), sites, images(other))


def test_projection_has_orthonormal_rows():
    projection = Projection(sites_for(BY_ID["vit"]))
    for at in range(2):
        matrix = projection.matrix(at)
        assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=matrix.dtype), atol=1e-12)


def test_projection_is_of_names_and_seed_alone():
    sites = sites_for(BY_ID["vit"])
    torch.manual_seed(5)
    one = Projection(sites)
    torch.manual_seed(6)
    assert torch.equal(one.matrix(0), Projection(sites).matrix(0))
    assert not torch.equal(one.matrix(0), Projection(sites, seed=1).matrix(0))
    assert not torch.equal(one.matrix(0), one.matrix(1))


def test_projection_threads_change_no_bit():
    sites = sites_of(build(BY_ID["vit"]), 32, last_blocks="all", size=150)
    vectors = [torch.randn(64, group.width) for group in sites.groups]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            projection = Projection(sites)
            found.append((projection.matrix(1), to_rows(projection(vectors))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_all_sites_kept_keep_every_distance():
    sites = sites_of(build(BY_ID["vit"]), 32, last_blocks=2, size=288)
    assert sites.size == sites.width
    vectors = [torch.randn(2, group.width) for group in sites.groups]
    a = Projection(sites)(vectors)
    scale = [LENGTH**2 * group.weight / len(group.members) for group in sites.groups]
    expected = sum(s * (v[0] - v[1]).double().square().sum() for s, v in zip(scale, vectors, strict=True))
    assert torch.allclose((a[0] - a[1]).square().sum(), torch.as_tensor(expected))


def test_the_first_numbers_are_of_all_groups():
    sites = sites_for(BY_ID["vit"])
    projection = Projection(sites)
    vectors = [torch.zeros(1, group.width) for group in sites.groups]
    for at in range(2):
        one = [vector.clone() for vector in vectors]
        one[at] += torch.randn(one[at].shape)
        moved = projection(one)[0] != 0
        assert [int(moved[:half].sum()) for half in (SIZE // 2, SIZE)] == [SIZE // 4, SIZE // 2]


def test_autocast_changes_no_bit_of_the_projection():
    projection = Projection(sites_for(BY_ID["vit"]))
    vectors = [torch.randn(3, group.width) for group in projection.sites.groups]
    with torch.autocast("cpu", torch.bfloat16):
        found = projection(vectors)
    assert torch.equal(found, projection(vectors))
    with pytest.raises(UsageError, match="vectors of widths"):
        projection(vectors[:1])


def test_rows_are_no_longer_than_one():
    a = torch.randn(200, 64, dtype=torch.float64)
    a[0], a[1, :], a[2, 0] = 0, 1e300**0.5, 5
    a[2, 1:] = 0
    rows = to_rows(a)
    assert np.square(rows, dtype=np.int64).sum(1).max() <= 2**30
    assert (rows[0] == 0).all()
    short = 0.5 * a[3:] / a[3:].norm(dim=1, keepdim=True)
    assert np.abs(to_rows(short) / 2**15 - short.numpy()).max() <= 2.0**-16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float):
    with pytest.raises(DataError, match="not finite"):
        to_rows(torch.tensor([[0.0, value]]))


def test_the_network_gives_the_logits_of_its_rows():
    case = BY_ID["vit"]
    projection = Projection(sites_for(case))
    rows = rows_of(build(case), projection, images(case, count=6))
    sums = Sums(projection.size, 2, projection.digest)
    sums.add(rows, np.array([0, 1] * 3))
    model = AdditiveModel.of(sums, 1e-3)
    network = AdditiveNetwork(build(case), projection, model).eval()
    found = network(images(case, count=6))
    np.testing.assert_allclose(found.numpy(), model.logits(rows), rtol=1e-5, atol=1e-6)  # float32, as the pictures
    with pytest.raises(DeltaMismatch, match="that of the projection"):
        AdditiveNetwork(build(case), Projection(projection.sites, seed=1), model)
    assert issubclass(DeltaMismatch, TaftError)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_projection_that_keeps_all_numbers_can_be_undone(name: str):
    case = next(case for case in SEVERAL if case.id.startswith(name))
    few = sites_for(case)
    sites = sites_for(case, size=few.width)
    vectors = site_vectors(build(case), sites, images(case))
    projection = Projection(sites, seed=3)
    for found, vector in zip(projection.back(projection(vectors)), vectors, strict=True):
        assert torch.allclose(found, vector.double(), atol=1e-9)
    with pytest.raises(UsageError, match="all of them"):
        Projection(few).back(torch.zeros(1, few.size, dtype=torch.float64))
