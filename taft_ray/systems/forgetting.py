"""How far each way to forget pictures leaves a fitted system from its oracle, and the CPU seconds that a warm worker takes.

The oracle is the same system, fitted anew in every shard without the pictures. `drop` leaves the whole shard out as well, so that it
is compared with two: the shards that never had that one, and the oracle.

Legend: N shards, B pictures, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taft_ray.evaluation.distance import distance
from taft_ray.sums import Sums
from taft_ray.systems.cell import Cell
from taft_ray.systems.measure import WARM_UP, TokenSet, fit_shard, leaving, split
from taft_ray.systems.nonlinear import NonLinear
from taft_ray.systems.readouts import Member, average
from taft_ray.systems.regmean import regmean
from taft_ray.tangent import Delta, TangentModel, batches, prepare_pictures

CLOCK = time.process_time  # seconds of the worker's one thread: other work on the machine hardly changes them
_CHUNK = 256  # pictures a forward pass

Members = Mapping[int, Member]  # by shard


def compared(
    after: np.ndarray, oracle: np.ndarray, before: np.ndarray, labels: np.ndarray, evaluated: int, seconds: float
) -> dict[str, Any]:
    """One way to forget. after, oracle, before: logits (B, K) of the evaluation pictures and, behind them, of those that left.

    "accuracy" is of the ``evaluated`` first ones, "after" and "before" are distances from the oracle on all.
    """
    right = after[:evaluated].argmax(1) == labels[:evaluated]
    return {
        "accuracy": float(right.mean()),
        "seconds": seconds,
        "equal_bits": np.array_equal(after, oracle),
        "after": distance(after, oracle, labels),
        "before": distance(before, oracle, labels),
    }


def measure_forgetting(cell: Cell, tm: TangentModel, train: TokenSet, test: TokenSet) -> dict[str, Any]:
    """`measure` of a cell with pictures that leave: "forgetting" by readout and way, and the readouts' "accuracy" before."""
    began = time.perf_counter()
    model = NonLinear(tm) if cell.network == "nonlinear" else tm
    gone = leaving(cell, train)
    parts = split(cell, train)
    if cell.timed:
        fit_shard(replace(cell, spec=replace(cell.spec, epochs=1)), model, train[parts[0][:WARM_UP]])
    ways = _Ways(cell, model, train, test, parts, gone)
    return {
        "accuracy": ways.accuracy(),
        "forgetting": ways.measured(),
        "samples": [len(index) for index in parts],
        "absent_classes": sum(len(train.labels[index].unique()) < tm.num_classes for index in parts),
        "evaluated": len(test),
        "ensemble_difference": None,
        "seconds": time.perf_counter() - began,
    }


class _Ways:
    """The fitted shards, the oracle's, and every way to get from these to what those are."""

    def __init__(
        self,
        cell: Cell,
        model: TangentModel | NonLinear,
        train: TokenSet,
        test: TokenSet,
        parts: list[Tensor],
        gone: Tensor,
    ) -> None:
        self.cell, self.spec, self.model = cell, cell.spec, model
        self.test_labels = test.labels
        self.labels = torch.cat([test.labels, train.labels[gone]]).numpy()
        self.pictures = prepare_pictures(
            model, torch.cat([test.tokens, train[gone].tokens]), budget=cell.spec.constants_bytes
        )
        staying = [index[~torch.isin(index, gone)] for index in parts]
        self.shards = {number: train[index] for number, index in enumerate(parts) if len(index)}
        self.left = {number: train[index] for number, index in enumerate(staying) if len(index)}
        self.touched = [number for number in self.shards if len(staying[number]) < len(parts[number])]
        self.before = {number: self._fit(shard)[0] for number, shard in self.shards.items()}
        self.anew = {number: self._fit(shard)[0] for number, shard in self.left.items()}
        self._refitted: dict[bool, dict[int, tuple[Member, dict[str, Any]]]] = {}

    def _fit(self, shard: TokenSet, start: Delta | None = None) -> tuple[Member, dict[str, Any]]:
        return fit_shard(self.cell, self.model, shard, start=start, clock=CLOCK)

    def refitted(self, warm: bool) -> dict[int, tuple[Member, dict[str, Any]]]:
        """The touched shards that have pictures left, each with what its fit took. warm: from where it was (resolve)."""
        if warm not in self._refitted:
            self._refitted[warm] = {
                number: self._fit(self.left[number], self.before[number].delta if warm else None)
                for number in self.touched
                if number in self.left
            }
        return self._refitted[warm]

    def accuracy(self) -> dict[str, float]:
        found = {readout: self._outputs(self._composed(self.before, readout)) for readout in self._readouts()}
        if isinstance(self.model, NonLinear):
            found["average"] = self._averaged(self.before)
        return {
            name: float((logits[: len(self.test_labels)].argmax(1) == self.test_labels.numpy()).mean())
            for name, logits in found.items()
        }

    def measured(self) -> dict[str, dict[str, Any]]:
        found = {}
        for readout in self._readouts():
            found[f"{readout}: retrain"] = self._retrained(readout, warm=False)
            if self.spec.solver == "ridge":
                found[f"{readout}: resolve"] = self._retrained(readout, warm=True)
            found |= self._dropped(readout)
        if isinstance(self.model, NonLinear):
            found["average: retrain"] = self._side_by_side()
        if self.cell.merges:
            found["regmean++: retrain"] = self._merged()
        return found

    def _readouts(self) -> tuple[str, ...]:
        return tuple(next(iter(self.before.values())).statistics)

    def _retrained(self, readout: str, *, warm: bool) -> dict[str, Any]:
        sums = self._sums(self.before, readout)
        old = {number: self.before[number].terms(readout) for number in self.touched}
        again = self.refitted(warm)
        began = CLOCK()
        for number in self.touched:
            sums.subtract(old[number], self.before[number].weight)
            if number in again:
                member, _ = again[number]
                sums.add(member.terms(readout), member.weight)
        delta = self._delta(sums, readout)
        seconds = CLOCK() - began
        seconds += sum(_seconds(facts, readout) for _, facts in again.values())
        return self._compared(delta, readout, self._composed(self.anew, readout), seconds)

    def _dropped(self, readout: str) -> dict[str, dict[str, Any]]:
        others = {number: member for number, member in self.anew.items() if number not in self.touched}
        if not others:
            return {}
        sums = self._sums(self.before, readout)
        old = {number: self.before[number].terms(readout) for number in self.touched}
        began = CLOCK()
        for number in self.touched:
            sums.subtract(old[number], self.before[number].weight)
        delta = self._delta(sums, readout)
        seconds = CLOCK() - began
        return {
            f"{readout}: drop": self._compared(delta, readout, self._composed(others, readout), seconds),
            f"{readout}: drop, against retrain": self._compared(
                delta, readout, self._composed(self.anew, readout), seconds
            ),
        }

    def _side_by_side(self) -> dict[str, Any]:
        again = self.refitted(warm=False)
        after = {number: member for number, member in self.before.items() if number not in self.touched}
        after |= {number: member for number, (member, _) in again.items()}
        seconds = sum(_seconds(facts, "mean") for _, facts in again.values())
        return self._answers(self._averaged(after), self._averaged(self.anew), self._averaged(self.before), seconds)

    def _merged(self) -> dict[str, Any]:
        again = self.refitted(warm=False)
        after = {number: again[number][0] if number in again else self.before[number] for number in self.left}
        began = CLOCK()
        delta = self._swept(after, self.left)
        seconds = CLOCK() - began + sum(_seconds(facts, "mean") for _, facts in again.values())
        oracle, before = self._swept(self.anew, self.left), self._swept(self.before, self.shards)
        return self._answers(self._outputs(delta), self._outputs(oracle), self._outputs(before), seconds)

    def _swept(self, members: Members, shards: Mapping[int, TokenSet]) -> Delta:
        assert isinstance(self.model, NonLinear)  # of merges
        deltas = [members[number].delta for number in shards]
        return regmean(self.model, deltas, [shard.tokens for shard in shards.values()], refreshed=True)

    def _compared(self, delta: Delta, readout: str, oracle: Delta, seconds: float) -> dict[str, Any]:
        before = self._outputs(self._composed(self.before, readout))
        return self._answers(self._outputs(delta), self._outputs(oracle), before, seconds)

    def _answers(self, after: np.ndarray, oracle: np.ndarray, before: np.ndarray, seconds: float) -> dict[str, Any]:
        return compared(after, oracle, before, self.labels, len(self.test_labels), seconds)

    def _sums(self, members: Members, readout: str) -> Sums:
        sums = Sums()
        for member in members.values():
            sums.add(member.terms(readout), member.weight)
        return sums

    def _delta(self, sums: Sums, readout: str) -> Delta:
        like = next(iter(self.before.values())).delta
        composed = self.spec.composed(sums, readout)
        return Delta({name: value.to(like[name]) for name, value in composed.items()})

    def _composed(self, members: Members, readout: str) -> Delta:
        return self._delta(self._sums(members, readout), readout)

    @torch.no_grad()
    def _outputs(self, delta: Delta) -> np.ndarray:
        """(B, K) float64."""
        logits = [self.model.logits(batch, delta).cpu() for _, batch in batches(self.pictures, _CHUNK)]
        return torch.cat(logits).double().numpy()

    def _averaged(self, members: Members) -> np.ndarray:
        """(B, K): the logarithm of SISA's mean of softmax outputs, shard by shard in the order of their numbers."""
        order = sorted(members)
        outputs = torch.stack([torch.from_numpy(self._outputs(members[number].delta)) for number in order])
        weights = [members[number].weight for number in order]
        return average(outputs, weights, probabilities=self.spec.loss == "ce").log().numpy()


def _seconds(facts: Mapping[str, Any], readout: str) -> float:
    """A warm fit: constants, fit and the statistics that this composition reads."""
    return facts["prepare_seconds"] + facts["fit_seconds"] + facts.get(f"{readout}_seconds", 0.0)
