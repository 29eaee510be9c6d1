"""A composed model over pictures: decoded pixels in, logits out, the same bits whichever pictures come together.

Legend: n pictures, K classes, T tokens, D width, S numbers of a row.

Two passes make an answer: through the frozen part, which many models may share, and through what a composed model adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from taft_ray.models import Preprocess
from taft_ray.plans.facts import Tuned
from taft_ray.plans.spec import RunSpec
from taft_ray.prefix.tokens import PREFIX_BATCH, Prefix, arithmetic, prefix_tokens
from taft_ray.run.model import build_tangent
from taft_ray.run.rows import build_rows, model_of
from taft_ray.tangent import Delta, TangentModel

_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)


class Answers(Protocol):
    """The part of a composed model behind the frozen one. penalty: λ of a model of sums; None of deltas."""

    penalty: float | None

    def logits(self, tokens: np.ndarray) -> Tensor:
        """Tokens, or rows, of n pictures -> (n, K) float64, on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """How many pictures may be in a pass, ascending: through the frozen part, and behind it. The last is the cache's own."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def of_prefix(self, n: int) -> int:
        return next((size for size in self.prefix if size >= n), self.prefix[-1])

    def of_suffix(self, n: int) -> int:
        return next((size for size in self.suffix if size >= n), self.suffix[-1])


class Frozen:
    """The frozen part of a run's model: pixels to tokens, or to rows of an additive one. It is the same before and after a forget.

    key: equal for two parts whose tokens are the same to the bit.
    """

    def __init__(self, spec: RunSpec, classes: int, *, additive: bool) -> None:
        self.spec, self.additive = spec, additive
        self.tangent: TangentModel | None = None
        self.maker: Prefix
        if additive:
            self.maker, self.preprocess, self.key = build_rows(spec)
        else:
            self.tangent, self.key = build_tangent(spec, classes)
            self.maker, self.preprocess = self.tangent, Preprocess.of(self.tangent.network)
        whole = PREFIX_BATCH[spec.device]
        self.shapes = Shapes(prefix=(whole,), suffix=(whole,))

    def tokens(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Pixels, uint8 (3, size, size) each -> tokens (n, T, D), or rows (n, 1, S), as the cache has them."""
        together = self.shapes.of_prefix(len(pixels))
        return prefix_tokens(self.maker, self.preprocess, pixels, self.spec, together=together)

    def as_stored(self, tokens: np.ndarray) -> Tensor:
        """Tokens (n, T, D) of the cache's type, or rows (n, S) int16."""
        if self.additive:
            return torch.from_numpy(tokens[:, 0])
        return torch.from_numpy(tokens.view(np.int16)).view(_TORCH.get(self.spec.stored_dtype, torch.int16))

    def with_model(self, arrays: Mapping[str, np.ndarray], tuned: Tuned | None = None) -> Answers:
        """The composed model of a snapshot's arrays. tuned: settings of an additive one. DeltaMismatch for another model's."""
        if self.tangent is None:
            return _OfRows(self.spec, arrays, tuned)
        return _OfTangent(self.tangent, arrays, self)

    def learn_shapes(self, answers: Answers) -> Shapes:
        """Find how few pictures a pass may have on this machine and still give the bits of a pass as the cache has it.

        A library picks its kernels by the shapes alone, so that random pictures tell for all. A size whose bits differ anywhere
        is not used.
        """
        whole = PREFIX_BATCH[self.spec.device]
        size, random = self.preprocess.size, np.random.default_rng(0)
        pictures = list(random.integers(0, 256, (whole, 3, size, size), np.uint8))
        self.shapes = Shapes(prefix=(whole,), suffix=(whole,))
        images = self.preprocess(torch.from_numpy(np.stack(pictures)).to(self.spec.device))
        smaller = [one for one in _SIZES if one < whole]
        with arithmetic(self.maker, self.spec):
            made = self._prefix(images)
            prefix = [n for n in smaller if torch.equal(self._prefix(images[:n]), made[:n])]
        tokens = self.tokens(pictures)
        logits = answers.logits(tokens)
        suffix = []
        for n in smaller:
            self.shapes = Shapes(prefix=(whole,), suffix=(n, whole))
            if torch.equal(answers.logits(tokens[:n]), logits[:n]):
                suffix.append(n)
        self.shapes = Shapes(prefix=(*prefix, whole), suffix=(*suffix, whole))
        return self.shapes

    def _prefix(self, images: Tensor) -> Tensor:
        """The maker's numbers before they are rounded for the cache."""
        made = self.maker.prefix(images)
        return made[0] if isinstance(made, tuple) else made


class _OfTangent:
    """f_w(x) + J·Δw on tokens, in passes of a fixed shape."""

    penalty: float | None = None

    def __init__(self, tm: TangentModel, arrays: Mapping[str, np.ndarray], frozen: Frozen) -> None:
        delta = Delta({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
        tm.zero_delta().check_like(delta)
        self._tm, self._delta, self._frozen = tm, delta.to(tm.device), frozen

    @torch.no_grad()
    def logits(self, tokens: np.ndarray) -> Tensor:
        several, at_once = self._frozen.as_stored(tokens), self._frozen.shapes.suffix[-1]
        return torch.cat([self._pass(several[at : at + at_once]) for at in range(0, len(several), at_once)])

    def _pass(self, tokens: Tensor) -> Tensor:
        n, size = len(tokens), self._frozen.shapes.of_suffix(len(tokens))
        if n < size:
            tokens = torch.cat([tokens, tokens.new_zeros(size - n, *tokens.shape[1:])])
        batch = self._tm.prepare(tokens)
        return (batch.primal + self._tm.tangent(batch, self._delta))[:n].cpu().double()


class _OfRows:
    """C·a + c on rows."""

    def __init__(self, spec: RunSpec, arrays: Mapping[str, np.ndarray], tuned: Tuned | None) -> None:
        self._model = model_of(spec, arrays, tuned)
        self.penalty: float | None = self._model.penalty

    def logits(self, tokens: np.ndarray) -> Tensor:
        """A picture at a time: a product of several rows may add up in another order."""
        rows = tokens[:, 0]
        each = [self._model.logits(rows[at : at + 1]) for at in range(len(rows))]
        return torch.from_numpy(np.concatenate(each))
