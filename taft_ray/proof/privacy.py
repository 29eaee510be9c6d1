"""The part of a certificate on privacy, in a private run: from its ledger alone, so that anybody can make it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from taft_ray.plans.privacy import Privacy
from taft_ray.plans.spending import DpReserved, epsilon_spent, epsilon_with_another, exceeds
from taft_ray.plans.state import FITTING
from taft_ray.storage import Entry

EXACT = "whoever has the model as it is now, or later ones, and none of before"
BOUNDED = "whoever kept models of before"
_DIGITS, _DIGITS_OF_SAMPLED = 1e-6, 2e-3  # in which an ε may differ, relatively


def privacy_statement(
    privacy: Privacy, entries: Sequence[Entry], request: str, shards: Sequence[int]
) -> dict[str, Any]:
    """Towards whom the forget is exact, what remains, and what the fits of this request cost those who stay.

    remains: ε of the samples that left, by the fits of their shard before the rewrite; the dearest shard's.

    neighbours: ε of each shard before and after the request's fits, at the same δ.

    not_fitted: shards that stay out, for the budget allows no fit.
    """
    rewritten = next(
        (e.number for e in entries if e.kind == "rewritten" and e.body["request"] == request), len(entries)
    )
    before: dict[int, list[DpReserved]] = {shard: [] for shard in shards}
    after: dict[int, list[DpReserved]] = {shard: [] for shard in shards}
    for entry in entries:
        if entry.kind == DpReserved.KIND and entry.body["shard"] in before:
            one = DpReserved.from_json(entry.body)
            after[one.shard].append(one)
            if entry.number < rewritten:
                before[one.shard].append(one)
    mode = next(
        (e.body["mode"] for e in entries if e.kind == "forget-requested" and e.body["request"] == request), None
    )
    fitted = {e.body["shard"] for e in entries[rewritten:] if e.kind == "trained"}
    left = entries[rewritten].body["samples"] if rewritten < len(entries) else {}
    was, now = ({s: epsilon_spent(several, privacy.delta) for s, several in one.items()} for one in (before, after))
    again = {s: epsilon_with_another(after[s], privacy) for s in shards}
    return {
        "unit": privacy.unit,
        "adjacency": privacy.adjacency,
        "delta": privacy.delta,
        "accountant": privacy.accountant,
        "exact_towards": EXACT,
        "remains": {"epsilon": max(was.values(), default=0.0), "delta": privacy.delta, "towards": BOUNDED},
        "neighbours": [
            {"shard": shard, "epsilon_before": was[shard], "epsilon_after": now[shard]} for shard in sorted(was)
        ],
        "not_fitted": [
            s
            for s in sorted(was)
            if mode in FITTING and s not in fitted and left.get(str(s)) and exceeds(again[s], privacy)
        ],
    }


def privacy_contradictions(certificate: Mapping[str, Any], entries: Sequence[Entry]) -> list[str]:
    """Where a certificate's privacy is not what the ledger up to it says; a run that is not private has none."""
    told, spec = certificate.get("privacy"), certificate["environment"]["spec"].get("privacy")
    if (told is None) != (spec is None):
        return ["it says nothing of privacy, and its run is private" if told is None else "its run is not private"]
    if told is None:
        return []
    known = entries[: certificate["rests_on"]["number"] + 1]
    asked = Privacy.from_json(spec)
    again = privacy_statement(asked, known, certificate["request"], certificate["shards"])
    digits = _DIGITS if asked.sampling_rate is None else _DIGITS_OF_SAMPLED
    return [] if _near(again, told, digits) else ["its privacy is not what the ledger's reservations come to"]


def _near(one: Any, other: Any, digits: float) -> bool:
    """Whether two say the same: another machine, or another version of Opacus, may compute an ε with other last digits."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=digits)
    if isinstance(one, dict) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_near(value, other[name], digits) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, Sequence) and not isinstance(other, str):
        return len(one) == len(other) and all(_near(a, b, digits) for a, b in zip(one, other, strict=True))
    return one == other
