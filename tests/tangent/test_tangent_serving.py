"""A composed model as a plain module and as an exported graph: the same logits, for any number of pictures."""

import pytest
import torch
from cases import BY_ID, CLASSES, build, images, random_delta

from taft_ray.errors import DeltaMismatch
from taft_ray.tangent import ComposedModel, TangentModel, linearize

CASES = [
    "vit",
    "deit-distilled",
    "clip-quickgelu",
    "dinov2-registers",
    "dinov2-swiglu",
    "vit-avg",
    "siglip-map",
    "eva02-clip",
    "rope-mixed-token",
    "dinov3-avg",
    "beitv2-token",
]


def tangent_model(case: str, **options: object) -> TangentModel:
    return linearize(build(BY_ID[case]), num_classes=CLASSES, **options)  # type: ignore[arg-type]  # linearize's own


@pytest.mark.parametrize(("case", "last_blocks"), [*((case, 1) for case in CASES), ("vit", "all")])
def test_exported_graph_gives_the_models_logits(case: str, last_blocks: int | str) -> None:
    tm = tangent_model(case, last_blocks=last_blocks)
    delta = random_delta(tm)
    model = ComposedModel(tm, delta)
    program = model.exported(images(BY_ID[case], count=1)).module()
    for count in (1, 5):
        pictures = images(BY_ID[case], count=count)
        primal, tangent = tm.jvp(tm.prepare(tm.prefix(pictures)), delta)
        assert float(tangent.abs().max()) > 1e-3
        torch.testing.assert_close(model(pictures), primal + tangent, rtol=0, atol=0)
        torch.testing.assert_close(program(pictures), primal + tangent, rtol=1e-12, atol=1e-12)


def test_class_token_is_served() -> None:
    tm = tangent_model("vit", cls_token=True)
    delta, pictures = random_delta(tm), images(BY_ID["vit"], count=3)
    assert float(delta["cls_token"].abs().max()) > 0
    program = ComposedModel(tm, delta).exported(pictures).module()
    torch.testing.assert_close(program(pictures), tm(pictures, delta), rtol=1e-12, atol=1e-12)


def test_delta_of_another_model_is_refused() -> None:
    tm = tangent_model("vit")
    with pytest.raises(DeltaMismatch, match="missing"):
        ComposedModel(tm, random_delta(tangent_model("vit", trainable="norm")))
