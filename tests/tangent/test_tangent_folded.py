"""A GPU's computations of the last block, run on a CPU: weights that take the norms in, and the kernel of the attention's tangent."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import BY_ID, CASES, Case, Reference, build, images, random_delta, random_like, relative
from torch import Tensor

from taft_ray.tangent import covariance, linearize, readout
from taft_ray.tangent.covariance import covariance_product
from taft_ray.tangent.rule import Selected

SHORT_CUT = [case for case in CASES if case.short_cut and not case.placed]


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "folds", lambda weight: True)


@pytest.mark.parametrize("trainable", ["full", "bitfit", "norm", "head"])
@pytest.mark.parametrize("case", SHORT_CUT, ids=lambda case: case.id)
def test_jvp_and_vjp_are_the_networks_own(case: Case, trainable: str) -> None:
    tm = linearize(build(case), trainable=trainable)
    reference, delta = Reference(build(case), tm, images(case)), random_delta(tm)
    prepared = tm.prepare(tm.prefix(images(case)))
    tangent = tm.tangent(prepared, delta)
    assert relative(tangent, reference.jvp(delta)[1]) < case.tolerance
    cotangent = random_like(tangent)
    pulled = tm.vjp(prepared, cotangent)
    torch.testing.assert_close(pulled.dot(delta), (cotangent * tangent).sum(), rtol=1e-9, atol=1e-12)
    for name, value in torch.func.vjp(reference, reference.trained)[1](cotangent)[0].items():
        assert float((pulled[name] - value).abs().max()) <= 1e-9 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize("case", SHORT_CUT, ids=lambda case: case.id)
def test_a_batch_of_selected_pictures_is_theirs(case: Case) -> None:
    tm = linearize(build(case))
    delta, prepared = random_delta(tm), tm.prepare(tm.prefix(images(case)))
    index = torch.tensor([2, 0, 2])
    torch.testing.assert_close(tm.tangent(prepared[index], delta), tm.tangent(prepared, delta)[index])


def test_what_the_rules_do_not_ask_for_is_not_gathered() -> None:
    case = BY_ID["vit"]
    tm = linearize(build(case))
    prepared = tm.prepare(tm.prefix(images(case)))
    asked: list[str] = []

    class Noting(Selected):
        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().__getitem__(name)

    batch = prepared[torch.tensor([0, 1])]
    batch.saved = Noting(prepared.saved, torch.tensor([0, 1]))
    tm.tangent(batch, random_delta(tm))
    whole = {"blocks.2.attn.n", "blocks.2.attn.p", "blocks.2.attn.r"}
    assert asked
    assert not whole & set(asked)
    assert whole < set(prepared.saved)


def test_the_product_is_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    p = torch.randn(3, 2, 4, 7, generator=generator, dtype=torch.float64).softmax(-1)
    z = torch.randn(4, 2 * 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    x_bar = torch.einsum("brht,btd->brhd", p, n)
    index = torch.tensor([2, 1])
    got = covariance_product(z, n, p, x_bar, index, 0.5)
    for b, picture in enumerate(index.tolist()):
        for r in range(2):
            for h in range(4):
                centred = n[picture] - x_bar[picture, r, h]
                covariance = torch.einsum("t,td,te->de", p[picture, r, h], centred, centred)
                torch.testing.assert_close(got[h, 2 * b + r], 0.5 * covariance @ z[h, 2 * b + r])
    assert torch.autograd.gradcheck(lambda z: covariance_product(z, n, p, x_bar, index, 0.5), (z,))


def test_a_product_is_its_adjoint_whatever_changes_between_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 may be allowed after the way forward gathered the batch: going back must not take the pool's means for the batch's."""
    n = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    p = torch.randn(5, 1, 2, 7, generator=torch.Generator().manual_seed(1)).softmax(-1)
    x_bar = torch.einsum("brht,btd->brhd", p, n)
    z = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))
    index = torch.tensor([4, 2, 2])
    (expected,) = torch.autograd.grad((covariance_product(z, n, p, x_bar, index, 0.5) * weight).sum(), z)

    got = covariance_product(z, n, p, x_bar, index, 0.5)
    monkeypatch.setattr(covariance, "_has_kernel", lambda *_: True)
    monkeypatch.setitem(sys.modules, "taft_ray.tangent.covariance_kernel", SimpleNamespace(product=centred_product))
    monkeypatch.setattr("taft_ray.tangent.covariance_kernel", SimpleNamespace(product=centred_product), raising=False)
    torch.testing.assert_close(torch.autograd.grad((got * weight).sum(), z)[0], expected)


def centred_product(z: Tensor, n: Tensor, p: Tensor, x_bar: Tensor, index: Tensor | None, scale: float) -> Tensor:
    """As the kernel does it: with x_bar, of one row a picture."""
    n, p, x_bar = (values if index is None else values[index] for values in (n, p, x_bar))
    centred = n[:, None] - x_bar[:, 0, :, None]  # (B, H, T, D)
    return scale * torch.einsum("bht,bhtd,bhte,hbe->hbd", p[:, 0], centred, centred, z)


def test_torchs_newer_switches_for_tf32_are_understood() -> None:
    code = "import torch; from taft_ray.tangent import covariance; {}; print(covariance._may_round())"
    for switch, expected in (
        ("pass", "False"),
        ("torch.set_float32_matmul_precision('high')", "True"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "True"),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "False"),
    ):
        line = [sys.executable, "-c", code.format(switch)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert done.stdout.strip() == expected, (switch, done.stderr[-500:])


KERNEL = """
import torch
from taft_ray.tangent import covariance_kernel
from taft_ray.tangent.covariance import by_products

generator = torch.Generator().manual_seed(0)
for rows, heads, tokens, width, dtype in (
    (1, 3, 17, 24, torch.float32), (2, 3, 50, 192, torch.float32), (1, 12, 197, 384, torch.float32),
    (1, 24, 33, 130, torch.float32), (1, 6, 70, 384, torch.float16),
):
    n = torch.randn(5, tokens, width, generator=generator)
    p = torch.randn(5, rows, heads, tokens, generator=generator).softmax(-1)
    x_bar = torch.einsum("brht,btd->brhd", p, n)
    for index in (None, torch.tensor([4, 0, 4])):
        z = torch.randn(heads, (5 if index is None else 3) * rows, width, generator=generator)
        wanted = by_products(z.double(), n.double(), p.double(), index, 0.125)
        got = covariance_kernel.product(*(value.to(dtype) for value in (z, n, p, x_bar)), index, 0.125, "ieee")
        error = float((got - wanted).norm() / wanted.norm())
        assert got.dtype == dtype
        print(rows, heads, tokens, width, dtype, error)
        assert error < (1e-6 if dtype is torch.float32 else 2e-3), error
"""


def test_the_kernel_is_the_product() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # its own interpreter, which needs no GPU
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True, check=False, timeout=300,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 10


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("width", "heads"), [(192, 3), (768, 12), (1024, 16)])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_a_gpu(
    capability: int, width: int, heads: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, which needs no GPU; it must fit into a multiprocessor's shared memory with all its stages."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from taft_ray.tangent import covariance_kernel as kernel

    held = {80: 163 << 10, 90: 227 << 10}[capability]  # bytes of shared memory that a program can have
    arguments = kernel._kernel.arg_names
    sizes = kernel.sizes_of(heads, 1, width, by_index=True)
    types = dict.fromkeys(("z", "n", "p", "x_bar", "out"), f"*{dtype}") | {"index": "*i64", "scale": "fp32"}
    signature = {name: "constexpr" if name in sizes else types.get(name, "i32") for name in arguments}
    constants = {(arguments.index(name),): value for name, value in sizes.items()}
    aligned = (*types, "z_head", "z_row", "out_head", "out_row")  # as torch's memory is; not the scale
    attrs = {(arguments.index(name),): [["tt.divisibility", 16]] for name in aligned if name != "scale"}
    warps = kernel.warps_of(sizes, 4 if dtype == "fp32" else 2)
    made = compile(
        ASTSource(fn=kernel._kernel, signature=signature, constexprs=constants, attrs=attrs),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": kernel.MOST_STAGES},
    )
    assert made.asm["cubin"]
    assert made.metadata.shared <= held
