"""Readouts of the models of several shards: one composed model, or all of them side by side.

Legend: N shards, B pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taft_ray.errors import UsageError
from taft_ray.plans.spec import RunSpec
from taft_ray.sums import Sums, shard_terms
from taft_ray.systems.nonlinear import NonLinear
from taft_ray.tangent import Delta, Pictures, TangentModel, batches

COMPOSED = ("mean", "gram", "joint")  # one model, whatever N is
SIDE_BY_SIDE = ("average", "vote")  # N forward passes
READOUTS = (*COMPOSED, *SIDE_BY_SIDE)
_CHUNK = 256  # pictures a forward pass


@dataclass(frozen=True, kw_only=True)
class Member:
    """A fitted shard: its Δ, how much it weighs, and its statistics by composition: those that it can be composed by."""

    delta: Delta
    weight: int
    statistics: Mapping[str, Mapping[str, Tensor] | None] = field(default_factory=lambda: {"mean": None})

    def terms(self, readout: str) -> dict[str, Tensor]:
        """Its terms of the exact sums that a composed readout is made of."""
        return shard_terms({name: value.cpu() for name, value in self.delta.items()}, self.statistics[readout])


def average(outputs_NBK: Tensor, weights: Sequence[int], *, probabilities: bool) -> Tensor:
    """(B, K): the weighted mean of what each model answers, its outputs or (after cross-entropy) their softmax."""
    weight = _shares(weights)
    answers = outputs_NBK.double()
    if probabilities:
        answers = answers.softmax(-1)
    return torch.einsum("n,nbk->bk", weight, answers)


def vote(outputs_NBK: Tensor, weights: Sequence[int]) -> Tensor:
    """(B, K): the share of votes of each class; each model votes for its largest output.

    Among classes with equal votes the one with the larger mean of softmax outputs is first: less than one vote is added to a share.
    """
    weight = _shares(weights)
    outputs = outputs_NBK.double()
    votes = torch.zeros_like(outputs).scatter_(-1, outputs.argmax(-1, keepdim=True), 1.0)
    smallest = float(weight[weight > 0].min())
    return torch.einsum("n,nbk->bk", weight, votes) + 0.5 * smallest * average(outputs, weights, probabilities=True)


def _shares(weights: Sequence[int]) -> Tensor:
    weight = torch.tensor(weights, dtype=torch.float64)
    if not weight.sum() > 0:
        raise UsageError("nothing to read out: no shard with samples is kept")
    return weight / weight.sum()


class Readouts:
    """The members of a cell on evaluation pictures. Each member's outputs are computed once."""

    def __init__(
        self,
        model: TangentModel | NonLinear,
        pictures: Pictures,
        labels: Tensor,
        members: Sequence[Member],
        spec: RunSpec,
    ) -> None:
        self.model, self.pictures, self.labels, self.members, self.spec = model, pictures, labels, members, spec
        self.composed = tuple(members[0].statistics)
        self.outputs_NBK = torch.stack([self._outputs(member.delta) for member in members])

    @torch.no_grad()
    def _outputs(self, delta: Delta) -> Tensor:
        """(B, K) on the CPU."""
        return torch.cat([self.model.logits(batch, delta).cpu() for _, batch in batches(self.pictures, _CHUNK)])

    def _accuracy(self, outputs: Tensor) -> float:
        return float((outputs.argmax(-1) == self.labels).double().mean())

    def accuracy_of(self, delta: Delta) -> float:
        """Accuracy of one model at w + Δ."""
        return self._accuracy(self._outputs(delta))

    def _compose(self, sums: Sums, readout: str, **changes: float) -> Delta:
        like = self.members[0].delta
        composed = replace(self.spec, **changes).composed(sums, readout)
        return Delta({name: value.to(like[name]) for name, value in composed.items()})

    def _side_by_side(self, who: Sequence[int]) -> dict[str, Tensor]:
        outputs, weights = self.outputs_NBK[list(who)], [self.members[i].weight for i in who]
        probabilities = self.spec.loss == "ce"
        return {"average": average(outputs, weights, probabilities=probabilities), "vote": vote(outputs, weights)}

    def read(self, chosen: Sequence[Collection[int]]) -> list[dict[str, float]]:
        """Accuracy by readout of each of these subsets of the members. A member's terms are made once a readout for all of them."""
        answers = [self._side_by_side(sorted(who)) for who in chosen]
        for name in self.composed:
            for answer, sums in zip(answers, self._sums(chosen, name), strict=True):
                answer[name] = self._outputs(self._compose(sums, name))
        return [{name: self._accuracy(value) for name, value in answer.items()} for answer in answers]

    def ensemble_difference(self) -> float | None:
        """max |mean of the members' outputs − outputs of the mean| / max |output|; TAFT eq. 13 says 0. None for NLFT."""
        if isinstance(self.model, NonLinear):
            return None
        (sums,) = self._sums([range(len(self.members))], "mean")
        composed = self._outputs(self._compose(sums, "mean")).double()
        ensemble = average(self.outputs_NBK, [member.weight for member in self.members], probabilities=False)
        return float((composed - ensemble).abs().max() / composed.abs().max())

    def gram_accuracy(self, epsilons: Sequence[float]) -> dict[str, float]:
        """Accuracy of the Gram composition of all members, by ε."""
        if not epsilons:
            return {}
        (sums,) = self._sums([range(len(self.members))], "gram")
        return {f"{e:g}": self._accuracy(self._outputs(self._compose(sums, "gram", epsilon=e))) for e in epsilons}

    def joint_accuracy(self, penalties: Sequence[float]) -> dict[str, float]:
        """Accuracy of the joint composition of all members, by λ."""
        if not penalties:
            return {}
        (sums,) = self._sums([range(len(self.members))], "joint")
        return {
            f"{p:g}": self._accuracy(self._outputs(self._compose(sums, "joint", joint_penalty=p))) for p in penalties
        }

    def _sums(self, chosen: Sequence[Collection[int]], readout: str) -> list[Sums]:
        sums = [Sums() for _ in chosen]
        for index, member in enumerate(self.members):
            terms = member.terms(readout)
            for who, total in zip(chosen, sums, strict=True):
                if index in who:
                    total.add(terms, member.weight)
        return sums
