"""A picture's tokens depend on the picture alone, bit for bit: else a forgotten neighbour would leave a trace."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from taft_ray.errors import TaftError
from taft_ray.models import Preprocess
from taft_ray.prefix import tokens as prefix
from taft_ray.prefix.tokens import PREFIX_BATCH, arithmetic, prefix_tokens
from taft_ray.run.model import build_tangent

DTYPES = pytest.mark.parametrize("precision", ["bfloat16", "float32"])
Tokens = Callable[..., np.ndarray]
BATCH = PREFIX_BATCH["cpu"]


@pytest.fixture(params=["float16", "bfloat16"])
def cache_dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[1, 2])
def tokens_of(request: pytest.FixtureRequest, precision: str, cache_dtype: str, spec_of: Callable[..., Any]) -> Tokens:
    """`prefix_tokens` of the tiny model with one thread and with two."""
    spec = spec_of("/nowhere", precision=precision, cache_dtype=cache_dtype, threads=request.param)
    torch.set_num_threads(request.param)
    torch.use_deterministic_algorithms(True)
    tm, _ = build_tangent(spec, 3)
    preprocess = Preprocess.of(tm.network)
    return lambda pixels, **more: prefix_tokens(tm, preprocess, pixels, spec, **more)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3 * BATCH + 5, 3, 32, 32), np.uint8)


@DTYPES
def test_tokens_do_not_depend_on_the_size_of_the_batch(tokens_of: Tokens, pixels: np.ndarray) -> None:
    together = tokens_of(pixels)
    assert len(together) == len(pixels)
    for count in (1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 3):
        assert np.array_equal(tokens_of(pixels[:count]), together[:count]), count


@DTYPES
def test_tokens_do_not_depend_on_the_position(tokens_of: Tokens, pixels: np.ndarray) -> None:
    together = tokens_of(pixels)
    for position in (0, 1, BATCH - 1, BATCH, len(pixels) - 1):
        assert np.array_equal(tokens_of(pixels[position : position + 1])[0], together[position]), position
    order = np.random.default_rng(1).permutation(len(pixels))
    assert np.array_equal(tokens_of(pixels[order]), together[order])


@DTYPES
def test_tokens_do_not_depend_on_the_neighbours(tokens_of: Tokens, pixels: np.ndarray) -> None:
    together = tokens_of(pixels)
    others = [np.zeros_like(pixels), np.full_like(pixels, 255), 255 - pixels, np.repeat(pixels[:1], len(pixels), 0)]
    for other in others:
        mixed = other.copy()
        mixed[7] = pixels[7]
        assert np.array_equal(tokens_of(mixed)[7], together[7])


@DTYPES
def test_tokens_without_the_forgotten_are_the_tokens_that_stay(tokens_of: Tokens, pixels: np.ndarray) -> None:
    stays = np.ones(len(pixels), bool)
    stays[[0, 5, BATCH, len(pixels) - 1]] = False
    assert np.array_equal(tokens_of(pixels[stays]), tokens_of(pixels)[stays])


@DTYPES
def test_equal_pictures_have_equal_tokens_wherever_they_are(tokens_of: Tokens, pixels: np.ndarray) -> None:
    same = tokens_of(np.repeat(pixels[:1], BATCH + 3, 0))
    assert (same == same[0]).all()


@DTYPES
def test_no_pictures_have_no_tokens(tokens_of: Tokens, pixels: np.ndarray) -> None:
    assert len(tokens_of(pixels[:0])) == 0


@DTYPES
def test_pictures_without_a_length_have_the_same_tokens(tokens_of: Tokens, pixels: np.ndarray) -> None:
    expected = tokens_of(pixels)
    for at_most in (len(pixels), len(pixels) + 1, 10 * len(pixels)):
        assert np.array_equal(tokens_of(iter(pixels), at_most=at_most), expected)
    assert len(tokens_of(iter(()), at_most=3)) == 0


@pytest.mark.parametrize("precision", ["float32"])
def test_a_picture_is_taken_just_before_its_pass(tokens_of: Tokens, pixels: np.ndarray) -> None:
    taken: list[np.ndarray] = []
    seen = []

    def pictures() -> Iterator[np.ndarray]:
        for picture in pixels:
            taken.append(picture)
            yield picture

    def counted(*_: object) -> AbstractContextManager[None]:
        seen.append(len(taken))
        return nullcontext()

    with mock.patch.object(prefix, "arithmetic", counted):
        tokens_of(pictures(), at_most=len(pixels))
    assert seen == [BATCH, 2 * BATCH, 3 * BATCH, len(pixels)]


def test_tokens_are_the_models_own_up_to_rounding(spec_of: Callable[..., Any], pixels: np.ndarray) -> None:
    spec = spec_of("/nowhere", precision="float32")
    tm, _ = build_tangent(spec, 3)
    preprocess = Preprocess.of(tm.network)
    expected = tm.prefix(preprocess(torch.from_numpy(pixels)))
    got = torch.from_numpy(prefix_tokens(tm, preprocess, pixels, spec)).float()
    torch.testing.assert_close(got, expected.float(), rtol=2e-3, atol=2e-3)


def test_attention_written_out_is_timms_up_to_rounding(spec_of: Callable[..., Any], pixels: np.ndarray) -> None:
    spec = spec_of("/nowhere", precision="bfloat16")
    tm, _ = build_tangent(spec, 3)
    images = Preprocess.of(tm.network)(torch.from_numpy(pixels[:4]))
    with torch.autocast("cpu", torch.bfloat16):
        fused = tm.prefix(images)
    switches = [module.fused_attn for module in tm.network.modules() if hasattr(module, "fused_attn")]
    with arithmetic(tm, spec):
        written_out = tm.prefix(images)
    assert not torch.equal(written_out, fused)
    torch.testing.assert_close(written_out, fused, rtol=0.05, atol=0.05)
    assert [module.fused_attn for module in tm.network.modules() if hasattr(module, "fused_attn")] == switches


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6, -1e6])
@pytest.mark.parametrize("picture", [0, BATCH - 1, BATCH, 3 * BATCH + 4])
def test_one_token_out_of_range_is_refused(
    spec_of: Callable[..., Any], pixels: np.ndarray, value: float, picture: int
) -> None:
    spec = spec_of("/nowhere", precision="float32")
    tm, _ = build_tangent(spec, 3)
    preprocess = Preprocess.of(tm.network)
    passes = itertools.count()
    whole = tm.prefix

    def damaged(images: torch.Tensor) -> torch.Tensor:
        tokens = whole(images)
        if next(passes) == picture // BATCH:
            tokens[picture % BATCH, -1, 2] = value
        return tokens

    with mock.patch.object(tm, "prefix", damaged), pytest.raises(TaftError, match="use --cache-dtype bfloat16"):
        prefix_tokens(tm, preprocess, pixels, spec)


def test_tokens_out_of_range_are_refused(spec_of: Callable[..., Any], pixels: np.ndarray) -> None:
    spec = spec_of("/nowhere", precision="float32")
    tm, _ = build_tangent(spec, 3)
    preprocess = Preprocess.of(tm.network)
    with torch.no_grad():
        for parameter in tm.network.patch_embed.parameters():  # type: ignore[union-attr]
            parameter.mul_(1e6)
    with pytest.raises(TaftError, match="use --cache-dtype bfloat16"):
        prefix_tokens(tm, preprocess, pixels, spec)
