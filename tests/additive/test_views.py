"""Rows over several views of a picture: nested middles, averaged before the projection."""

import numpy as np
import pytest
import torch
from cases import BY_ID, build, images

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
from taft_ray.additive.options import MOST_VIEWS
from taft_ray.additive.views import view
from taft_ray.errors import UsageError

CASE = BY_ID["vit"]
SIZE = 24


def sites_with(views: int, size: int = SIZE) -> Sites:
    return sites_of(build(CASE), CASE.image_size, size=size, last_blocks=2, views=views)


@pytest.mark.parametrize("number", range(MOST_VIEWS))
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80)])
def test_a_view_is_the_enlarged_middle(number: int, height: int, width: int):
    """A slope stays a slope, about the same centre, and is as much less steep as less of the side is left."""
    down, across = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    picture = (3 * down - 2 * across)[None, None].expand(1, 3, -1, -1)
    found = view(picture, number)
    assert found.shape == picture.shape
    inside = (..., slice(2, -2), slice(2, -2))  # beyond the middles of its outermost pixels a picture is constant
    torch.testing.assert_close(found[inside], (picture * (1 - number / 8))[inside], rtol=0, atol=1e-4)


@pytest.mark.parametrize("views", range(1, MOST_VIEWS + 1))
def test_vectors_are_the_mean_over_the_views(views: int):
    network, given = build(CASE), images(CASE)
    found = site_vectors(network, sites_with(views), given)
    apart = [site_vectors(network, sites_with(1), view(given, number)) for number in range(views)]
    for vector, several in zip(found, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(vector, torch.stack(several).mean(0), rtol=0, atol=1e-6)
        assert float(vector.norm(dim=1).max()) <= len(sites_with(1).groups[0].members) ** 0.5 + 1e-5


def test_a_pass_of_the_callers_own_is_for_the_picture_as_it_is():
    network, given, seen = build(CASE), images(CASE), []

    def through(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(pictures)
        return network(pictures)

    found = rows_of(network, Projection(sites_with(3)), given, through)
    assert [one is given for one in seen] == [True]
    assert np.array_equal(found, rows_of(network, Projection(sites_with(3)), given))


def test_one_view_is_named_as_before_there_were_views():
    assert all("views" not in group for group in sites_with(1).to_json())
    digests = {views: Projection(sites_with(views)).digest for views in range(1, MOST_VIEWS + 1)}
    assert len(set(digests.values())) == MOST_VIEWS
    for views, digest in digests.items():
        again = Sites.from_json(sites_with(views).to_json())
        assert again == sites_with(views)
        assert Projection(again).digest == digest


@pytest.mark.parametrize("views", [0, MOST_VIEWS + 1])
def test_impossible_numbers_of_views_are_refused(views: int):
    with pytest.raises(UsageError, match=f"1..{MOST_VIEWS}; set --views"):
        sites_with(views)


def test_pictures_without_sixteenths_have_one_view():
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=12, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=2)
    assert sites_of(network, 12, size=8).views == 1
    with pytest.raises(UsageError, match="leave --views out, or raise --image-size"):
        sites_of(network, 12, size=8, views=2)


def test_the_exported_network_has_the_logits_of_the_rows():
    projection = Projection(sites_with(3))
    rows = rows_of(build(CASE), projection, images(CASE, count=6))
    sums = Sums(projection.size, 2, projection.digest)
    sums.add(rows, np.array([0, 1] * 3))
    model = AdditiveModel.of(sums, 1e-3)
    network = AdditiveNetwork(build(CASE), projection, model).eval()
    program = network.exported(images(CASE, count=2)).module()
    for found in (network(images(CASE, count=6)), program(images(CASE, count=6))):
        np.testing.assert_allclose(found.detach().numpy(), model.logits(rows), rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_its_batch():
    network, projection, given = build(CASE).double(), Projection(sites_with(4)), images(CASE, count=5).double()
    together = projection(site_vectors(network, projection.sites, given))
    alone = torch.cat([projection(site_vectors(network, projection.sites, one[None])) for one in given])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert np.abs(to_rows(together).astype(int) - to_rows(alone)).max() <= 1
