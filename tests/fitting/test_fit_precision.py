"""The precision of a fit's products: near the fit in float32, repeatable, and no setting of the process afterwards."""

from typing import Any

import pytest
import timm
import torch
from tangent_settings import _one_thread  # noqa: F401

from taft_ray.errors import UsageError
from taft_ray.fitting import FitConfig, fit, fit_many
from taft_ray.fitting.precision import products
from taft_ray.plans.spec import RunSpec
from taft_ray.tangent import TangentModel, linearize, prepare_pictures

pytestmark = pytest.mark.usefixtures("_one_thread")
CPU = torch.device("cpu")
MKLDNN: Any = torch.backends.mkldnn  # whose types torch does not publish


@pytest.fixture(scope="module")
def shards() -> tuple[TangentModel, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    tm = linearize(timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64))
    return tm, [(tm.prefix(torch.randn(n, 3, 64, 64)), torch.randint(0, 5, (n,))) for n in (24, 9)]


@pytest.mark.parametrize(
    "options", [{"solver": "ridge"}, {"solver": "adam", "epochs": 3}], ids=lambda given: given["solver"]
)
def test_fit_is_near_that_of_float32_and_repeats(shards, options) -> None:
    tm, ((tokens, labels), _) = shards
    pictures = prepare_pictures(tm, tokens)
    exact = fit(tm, pictures, labels, FitConfig(**options))
    config = FitConfig(**options, fit_precision="bfloat16")
    faster, again = (fit(tm, pictures, labels, config) for _ in range(2))
    for name, value in exact.items():
        assert torch.equal(faster[name], again[name]), "the same bits"
        assert faster[name].dtype == torch.float32
        assert float((faster[name] - value).norm()) <= 0.02 * float(value.norm()), name
    assert faster.report.converged


def test_fits_of_several_shards_together_have_the_bits_of_each_alone(shards) -> None:
    tm, several = shards
    prepared = [(prepare_pictures(tm, tokens), labels) for tokens, labels in several]
    config = FitConfig(fit_precision="bfloat16")
    for delta, (pictures, labels) in zip(fit_many(tm, prepared, config), prepared, strict=True):
        alone = fit(tm, pictures, labels, config)
        assert all(torch.equal(delta[name], value) for name, value in alone.items())


def test_setting_of_the_process_is_as_before_also_after_an_error() -> None:
    before = MKLDNN.matmul.fp32_precision
    with products(CPU, "bfloat16"):
        assert MKLDNN.matmul.fp32_precision == "bf16"
    assert MKLDNN.matmul.fp32_precision == before
    with pytest.raises(ZeroDivisionError), products(CPU, "bfloat16"):
        _ = 1 // 0
    assert MKLDNN.matmul.fp32_precision == before


def test_products_are_those_of_rounded_factors() -> None:
    """Where the machine has instructions for it: else torch makes them in float32."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 256), torch.randn(256, 64)
    with products(CPU, "bfloat16"):
        got = a @ b
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    near = float((got.double() - rounded).abs().max())
    exact = float((got.double() - a.double() @ b.double()).abs().max())
    assert min(near, exact) < 1e-4


def test_a_resolve_is_made_in_float32() -> None:
    """Its tolerance is about what float32 can reach."""
    assert FitConfig(fit_precision="bfloat16").to_resolve().fit_precision == "float32"


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("cpu", "tf32", "float32, bfloat16"),
        ("cuda", "bfloat16", "float32, tf32"),
        ("cpu", "float16", "float32, bfloat16"),
    ],
)
def test_a_precision_without_instructions_is_refused(device: str, precision: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RunSpec(data="d", model="m", device=device, fit_precision=precision)
    with pytest.raises(UsageError, match=words), products(torch.device(device), precision):
        pass


def test_spec_says_it_only_where_it_is_not_float32() -> None:
    assert "fit_precision" not in RunSpec(data="d", model="m").to_json()
    assert RunSpec(data="d", model="m", fit_precision="bfloat16").to_json()["fit_precision"] == "bfloat16"
    assert RunSpec(data="d", model="m", fit_precision="bfloat16").fit_config().fit_precision == "bfloat16"
