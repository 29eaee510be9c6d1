"""One pass gives the rows of a lean run and the tokens of a tangent run, to the last bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from cases import CASES, Case, build, images
from plain import plain_train
from tiny import SIZE

from taft_ray.additive import Projection, sites_of
from taft_ray.prefix.part_writer import build_prefix
from taft_ray.prefix.tokens import prefix_columns, prefix_tokens
from taft_ray.run.record import Record
from taft_ray.run.rows import RowMaker
from taft_ray.run.rows_and_tokens import BothMaker
from taft_ray.storage import PartRef, Store, read_part
from taft_ray.tangent import linearize


@pytest.mark.parametrize("last_blocks", [0, 1, 2, "all"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_each_is_as_it_is_alone(name: str, last_blocks: int | str) -> None:
    torch.manual_seed(0)
    more: dict[str, Any] = {"img_size": 32} if name == "test_vit" else {}
    network = timm.create_model(name, **more).eval()
    pictures = torch.randn(4, 3, 32, 32)
    alone = RowMaker(network, Projection(sites_of(network, 32, size=24), 0), "cpu")
    with torch.inference_mode():
        tokens, rows = BothMaker(alone, last_blocks).prefix(pictures)
        assert torch.equal(rows, alone.prefix(pictures)[:, 0])
        assert torch.equal(tokens, linearize(network, last_blocks, num_classes=3, cls_token=False).prefix(pictures))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_family_has_both(case: Case) -> None:
    """A default run works on all of them, with as many numbers per row as there are."""
    network, size = build(case), (case.height or case.image_size, case.image_size)
    alone = RowMaker(network, Projection(sites_of(network, size), 0), "cpu")
    with torch.inference_mode():
        tokens, rows = BothMaker(alone, 1).prefix(images(case))
        assert torch.equal(rows, alone.prefix(images(case))[:, 0])
        assert torch.equal(tokens, linearize(network, 1).prefix(images(case)))


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"reset": True, "cls_token": True}])
def test_cache_of_two_tiers_has_the_bits_of_both(changes: dict[str, Any], spec_of: Callable[..., Any]) -> None:
    """Also where blocks of the suffix are made anew, and where attention is written out for bfloat16."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 3, SIZE, SIZE), np.uint8)
    specs = {
        "both": spec_of("data", compose="additive", features=48, **changes),
        "lean": spec_of("data", solver="additive", features=48, **changes),
        "tangent": spec_of("data", **changes),
    }
    made = {}
    for name, spec in specs.items():
        maker, preprocess, fingerprint = build_prefix(spec, 3)
        made[name] = prefix_columns(maker, preprocess, pixels, spec), fingerprint
    tokens, rows = made["both"][0]
    assert np.array_equal(tokens, made["tangent"][0][0])
    assert np.array_equal(rows, made["lean"][0][0][:, 0])
    assert len({fingerprint for _, fingerprint in made.values()}) == 3
    maker, preprocess, _ = build_prefix(specs["both"], 3)
    assert np.array_equal(prefix_tokens(maker, preprocess, pixels, specs["both"]), tokens)


def test_parts_hold_both(spec_of: Callable[..., Any], parquet: Path, tmp_path: Path) -> None:
    for name, changes in (("both", {"compose": "additive"}), ("lean", {"solver": "additive"}), ("tangent", {})):
        features = {} if name == "tangent" else {"features": 48}
        plain_train(tmp_path / name, spec_of(parquet, trainable="head", **features, **changes))
    held: dict[str, list[Any]] = {}
    for name in ("both", "lean", "tangent"):
        record = Record(str(tmp_path / name))
        manifest = record.manifest()
        store = Store(str(tmp_path / name))
        held[name] = [
            read_part(store, PartRef.from_json(ref), fingerprint=manifest.fingerprint) for ref in manifest.refs
        ]
    for both, lean, tangent in zip(held["both"], held["lean"], held["tangent"], strict=True):
        assert both.keys == lean.keys == tangent.keys
        assert np.array_equal(both.tokens, tangent.tokens)
        assert np.array_equal(both.rows, lean.tokens[:, 0])
        assert tangent.rows is None
