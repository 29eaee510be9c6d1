"""On a GPU, where there is one: every precision against float64 on the CPU, recorded steps, both solvers, the same bits twice."""

from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from taft_ray.errors import UsageError
from taft_ray.fitting import FitConfig, adam, fit
from taft_ray.tangent import ComposedModel, Delta, Prepared, TangentModel, concatenate, covariance, linearize

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]

CLASSES = 10
COUNT = 70


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, depth=3).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(COUNT, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=["float32", "tf32", "bfloat16"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


def prepared_on(tm: TangentModel, images: Tensor) -> Prepared:
    return concatenate([tm.prepare(tm.prefix(part.to(tm.device, tm.dtype))) for part in images.split(32)])


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double().cpu() - expected.double().cpu()).norm() / expected.double().norm())


def vector(delta: Delta) -> Tensor:
    return torch.cat([value.flatten().cpu() for value in delta.values()])


@pytest.mark.parametrize(
    "options", [{}, {"cls_token": True}, {"last_blocks": 2}, {"trainable": "norm"}, {"trainable": "bitfit"}], ids=str
)
def test_tangent_and_gradient_are_those_of_float64(
    network: nn.Module, images: Tensor, precision: str, options: dict
) -> None:
    exact = linearize(network, **options).double()
    delta = exact.zero_delta().map(
        lambda t: 0.05 * torch.randn(t.shape, generator=torch.Generator().manual_seed(3), dtype=t.dtype)
    )
    constants = prepared_on(exact, images[:32])
    tangent = exact.tangent(constants, delta)
    cotangent = torch.randn(tangent.shape, generator=torch.Generator().manual_seed(4), dtype=tangent.dtype)
    gradient = exact.vjp(constants, cotangent)

    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    tm = linearize(network, **options).to("cuda")
    there = prepared_on(tm, images[:32]).to(kind)  # constants in float32, then rounded, as a cache's are
    tm = tm.to(kind)
    tolerance = {"float32": 1e-5, "tf32": 3e-3, "bfloat16": 3e-2}[precision]
    assert relative(tm.tangent(there, delta.to("cuda", kind)), tangent) < tolerance
    assert relative(vector(tm.vjp(there, cotangent.to("cuda", kind))), vector(gradient)) < tolerance
    index = torch.tensor([5, 0, 5, 31], device="cuda")
    assert relative(tm.tangent(there[index], delta.to("cuda", kind)), tangent[index.cpu()]) < tolerance


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("heads", "width"), [(3, 192), (16, 1024), (12, 768), (20, 1280)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_kernel_is_the_product(kind: torch.dtype, heads: int, width: int, rows: int) -> None:
    from taft_ray.tangent import covariance_kernel

    generator = torch.Generator("cuda").manual_seed(0)
    n = torch.randn(9, 197, width, generator=generator, device="cuda")
    p = (3 * torch.randn(9, rows, heads, 197, generator=generator, device="cuda")).softmax(-1)
    x_bar = torch.einsum("brht,btd->brhd", p.double(), n.double()).float()
    index = torch.tensor([8, 0, 8, 3], device="cuda")
    z = torch.randn(heads, 4 * rows, width, generator=generator, device="cuda")
    z, n, p, x_bar = (value.to(kind) for value in (z, n, p, x_bar))
    wanted = covariance.by_products(z.double(), n.double(), p.double(), index, 0.125)
    got, again = (covariance_kernel.product(z, n, p, x_bar, index, 0.125) for _ in range(2))
    if got is None:  # it does not fit; the product is what is used then
        assert rows * heads * width * kind.itemsize > 64 << 10
        assert again is None
        return
    assert again is not None
    assert relative(got, wanted) < {torch.float32: 3e-3, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[kind]
    assert torch.equal(got, again)


def test_which_precisions_the_kernel_is_for(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taft_ray.tangent import covariance_kernel

    used: list[str] = []
    product = covariance_kernel.product
    monkeypatch.setattr(covariance_kernel, "product", lambda *given: used.append(precision) or product(*given))
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    n = torch.randn(2, 20, 32, device="cuda", dtype=kind)
    p = torch.randn(2, 1, 2, 20, device="cuda", dtype=kind).softmax(-1)
    x_bar = torch.einsum("brht,btd->brhd", p, n)
    covariance.covariance_product(torch.randn(2, 2, 32, device="cuda", dtype=kind), n, p, x_bar, None, 1.0)
    assert used == ([] if precision == "float32" else [precision])


def test_recorded_steps_have_the_bits_of_the_steps(
    network: nn.Module, images: Tensor, labels: Tensor, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    tm = linearize(network).to("cuda")
    pictures = prepared_on(tm, images).to(kind)
    tm = tm.to(kind)
    # 70 pictures: three batches an epoch, the last one smaller; both sizes are recorded, and again after the milestones
    config = FitConfig(solver="adam", epochs=9, milestones=(4, 7), radius=1.5)
    replayed: list[int] = []
    replay = adam.Graph.__call__
    monkeypatch.setattr(
        adam.Graph, "__call__", lambda graph, numbers: replayed.append(len(numbers)) or replay(graph, numbers)
    )
    recorded = fit(tm, pictures, labels, config)
    assert {32, 6} == set(replayed)
    assert len(replayed) == 9 * 3 - 2 * adam.EAGER_STEPS
    replayed.clear()
    monkeypatch.setattr(adam, "EAGER_STEPS", 10**9)
    eager = fit(tm, pictures, labels, config)
    assert not replayed
    assert all(value.dtype == torch.float32 for value in recorded.values())
    assert recorded.report.history == eager.report.history
    assert all(torch.equal(recorded[name], eager[name]) for name in eager)


@pytest.mark.parametrize("radius", [None, 1.5])
def test_adam_and_ridge_find_what_the_cpu_finds(
    network: nn.Module, images: Tensor, labels: Tensor, radius: float | None
) -> None:
    here, there = linearize(network), linearize(network).to("cuda")
    at_home, away = prepared_on(here, images), prepared_on(there, images)
    config = FitConfig(solver="adam", epochs=5, radius=radius)
    assert (
        relative(vector(fit(there, away, labels, config)), vector(fit(here, at_home, labels, config))) < 0.02
    )  # Adam divides by small numbers
    config = FitConfig(tolerance=1e-6)
    solved = fit(there, away, labels, config)
    assert solved.report.residual is not None
    assert solved.report.residual < 2e-6
    assert solved.report.iterations <= 4
    assert relative(vector(solved), vector(fit(here, at_home, labels, config))) < 1e-4
    again = fit(there, away, labels, config)
    assert all(torch.equal(again[name], solved[name]) for name in again)


def test_ridge_refuses_half_precision(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    tm = linearize(network).to("cuda", torch.bfloat16)
    with pytest.raises(UsageError, match="float32"):
        fit(tm, prepared_on(tm, images), labels, FitConfig())


def test_a_composed_model_serves_in_half_precision(network: nn.Module, images: Tensor) -> None:
    exact = linearize(network)
    delta = exact.zero_delta().map(
        lambda t: 0.05 * torch.randn(t.shape, generator=torch.Generator().manual_seed(3), dtype=t.dtype)
    )
    expected = ComposedModel(exact, delta)(images[:8])
    served = ComposedModel(linearize(network).to("cuda", torch.bfloat16), delta)
    with torch.inference_mode():
        assert relative(served(images[:8].to("cuda", torch.bfloat16)), expected) < 3e-2
