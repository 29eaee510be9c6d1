"""Joint composition against least squares over all pictures, and the laws of what shards keep for it."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from cases import BY_ID, CLASSES, build, images, random_delta
from torch import Tensor

from taft_ray.errors import DeltaMismatch, FixedPointOverflow, UnsupportedModel, UsageError
from taft_ray.sums import Sums, check_joint, compose, joint, shard_terms, statistics_for
from taft_ray.sums.joint import JointLayer, joint_statistics
from taft_ray.tangent import Delta, Prepared, TangentModel, linearize
from taft_ray.tangent.kernel import jacobian_rows

COUNTS = (5, 1, 8)

Place = tuple[str, int, int]  # parameter, first row, head


def shards_of(case: str = "vit", **options: Any) -> tuple[TangentModel, list[Prepared], list[Delta]]:
    tm = linearize(build(BY_ID[case]), **options)
    tokens = tm.prefix(images(BY_ID[case], count=sum(COUNTS), seed=3))
    deltas = [random_delta(tm, seed=number) for number in range(len(COUNTS))]
    return tm, [tm.prepare(part) for part in tokens.split(COUNTS)], deltas


def statistics_of(tm: TangentModel, shards: list[Prepared], deltas: list[Delta]) -> list[dict[str, Tensor]]:
    return [statistics_for("joint", tm, shard, delta) for shard, delta in zip(shards, deltas, strict=True)]  # type: ignore[misc]  # not the mean


def sums_of(deltas: list[Delta], statistics: list[dict[str, Tensor]], leave_out: tuple[int, ...] = ()) -> Sums:
    sums = Sums()
    for number, (delta, kept) in enumerate(zip(deltas, statistics, strict=True)):
        if number not in leave_out:
            sums.add(shard_terms(delta, kept))
    return sums


def least_squares(tm: TangentModel, shards: list[Prepared], deltas: list[Delta], penalty: float) -> dict[Place, Tensor]:
    """ΔW of each place in the network from all pictures in one stacked least-squares problem, by (parameter, first row, head)."""
    columns: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    targets = []
    for shard, delta in zip(shards, deltas, strict=True):
        y = torch.zeros_like(shard.primal)
        for entry, inputs, outputs in jacobian_rows(tm, [shard])[0].factors:
            if entry.transposed or entry.weight is None:
                continue
            weights = delta[entry.weight][entry.start : entry.stop].unflatten(0, (entry.heads, -1))
            for head in range(entry.heads):
                a, g = inputs[:, 0, head], outputs[:, :, 0, head]
                moved = a @ weights[head].T
                if entry.bias is not None:
                    a = torch.cat([a, a.new_ones(len(a), 1)], 1)
                    moved = moved + delta[entry.bias][entry.start : entry.stop].unflatten(0, (entry.heads, -1))[head]
                y = y + (g * moved[:, None]).sum(-1)
                columns.setdefault((entry.weight, entry.start, head), []).append((a, g))
        targets.append(y)
    count = sum(map(len, targets))
    means = {place: torch.cat([g for _, g in parts]).mean(0) for place, parts in columns.items()}
    scales = {place: mean.norm() / CLASSES**0.5 for place, mean in means.items()}
    a = torch.cat([torch.cat([a for a, _ in parts]) * scales[place] for place, parts in columns.items()], 1)
    ridge = (penalty * count * CLASSES) ** 0.5 * torch.eye(a.shape[1], dtype=a.dtype)
    stacked = torch.cat([torch.cat(targets), torch.zeros(a.shape[1], CLASSES, dtype=a.dtype)])
    answer = torch.linalg.lstsq(torch.cat([a, ridge]), stacked).solution.T
    found, start = {}, 0
    for place, parts in columns.items():
        stop = start + parts[0][0].shape[1]
        found[place] = scales[place] * torch.linalg.pinv(means[place]) @ answer[:, start:stop]
        start = stop
    return found


@pytest.mark.parametrize("penalty", [0.003, 0.3])
@pytest.mark.parametrize("options", [{}, {"trainable": "bitfit"}, {"trainable": "head"}, {"cls_token": True}], ids=str)
def test_it_is_least_squares_over_all_pictures(options: dict[str, Any], penalty: float) -> None:
    tm, shards, deltas = shards_of(**options)
    composed = sums_of(deltas, statistics_of(tm, shards, deltas)).compose("joint", penalty=penalty)
    expected = least_squares(tm, shards, deltas, penalty)
    mean = compose(deltas)
    untouched = set(composed)
    for (weight, start, head), wanted in expected.items():
        rows = slice(start + head * len(wanted), start + (head + 1) * len(wanted))
        width = composed[weight].shape[1]
        largest = float(wanted.abs().max())
        torch.testing.assert_close(composed[weight][rows], wanted[:, :width], rtol=1e-5, atol=1e-5 * largest)
        untouched -= {weight, weight.replace("weight", "bias")} if wanted.shape[1] > width else {weight}
    for name in untouched:  # norms, class token, what is not a matrix
        assert torch.equal(composed[name], mean[name].double()), name
    assert any(not torch.equal(composed[weight], mean[weight].double()) for weight, _, _ in expected)


@pytest.mark.parametrize("case", ["deit-distilled", "dinov2", "vit-no-bias-at-all", "clip", "eva-clip", "beitv2-token"])
def test_every_class_token_network_composes(case: str) -> None:
    tm = linearize(build(BY_ID[case]))
    shard = tm.prepare(tm.prefix(images(BY_ID[case], count=6, seed=3)))
    delta = random_delta(tm)
    check_joint(tm, tm.prefix(images(BY_ID[case], count=1, seed=0)))
    composed = compose([delta], statistics=[statistics_for("joint", tm, shard, delta) or {}], penalty=1e-6)
    assert composed.keys() == delta.keys()
    assert all(torch.isfinite(value).all() for value in composed.values())


def test_statistics_of_parts_add_up() -> None:
    tm, shards, deltas = shards_of()
    tokens = tm.prefix(images(BY_ID["vit"], count=sum(COUNTS), seed=3))
    whole = joint_statistics(tm, tm.prepare(tokens), deltas[0])
    parts = [joint_statistics(tm, shard, deltas[0]) for shard in shards]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-10, atol=1e-10)


def test_a_shard_that_left_was_never_there() -> None:
    tm, shards, deltas = shards_of()
    statistics = statistics_of(tm, shards, deltas)
    sums = sums_of(deltas, statistics)
    with_it = sums.joint()
    sums.subtract(shard_terms(deltas[1], statistics[1]))
    without, never = sums.joint(), sums_of(deltas, statistics, leave_out=(1,)).joint()
    assert all(torch.equal(without[name], never[name]) for name in never)
    assert any(not torch.equal(without[name], with_it[name]) for name in never)
    sums.add(shard_terms(deltas[1], statistics[1]))
    again = sums.joint()
    assert all(torch.equal(again[name], with_it[name]) for name in never)


def test_bits_do_not_depend_on_threads_or_order() -> None:
    tm, shards, deltas = shards_of()
    statistics = statistics_of(tm, shards, deltas)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(sums_of(deltas, statistics).joint())
    finally:
        torch.set_num_threads(before)
    found.append(sums_of(deltas[::-1], statistics[::-1]).joint())
    for one, other in pairwise(found):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_wide_inputs_are_projected_and_little_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    tm, shards, deltas = shards_of()
    pictures, full = shards[2], sums_of(deltas, statistics_of(tm, shards, deltas)).joint(0.003)
    whole = joint_statistics(tm, shards[0], deltas[0])["outputs"].shape[1]
    differences = []
    for most in (whole - 1, whole // 2):
        monkeypatch.setattr(joint, "MOST", most)
        statistics = statistics_of(tm, shards, deltas)
        kept = [JointLayer.parse(name.partition("slope/")[2]).kept for name in statistics[0] if "slope/" in name]
        assert most - len(kept) < sum(kept) <= most
        projected = sums_of(deltas, statistics).joint(0.003)
        expected = tm.tangent(pictures, full.to(torch.float64))
        differences.append(float((tm.tangent(pictures, projected) - expected).norm() / expected.norm()))
    assert differences[0] < differences[1] < 0.5
    assert not torch.equal(projected["head.weight"], full["head.weight"])


@pytest.mark.parametrize(
    ("case", "options"),
    [("vit", {"last_blocks": 2}), ("vit-avg", {}), ("resnet-basic", {})],
    ids=["blocks", "average", "resnet"],
)
def test_what_sees_more_tokens_is_refused(case: str, options: dict[str, Any]) -> None:
    tm = linearize(build(BY_ID[case]), **options)
    with pytest.raises(UnsupportedModel, match="last block behind a class token"):
        check_joint(tm, tm.prefix(images(BY_ID[case], count=1, seed=0)))


def test_bad_input_is_told() -> None:
    tm, shards, deltas = shards_of()
    statistics = statistics_of(tm, shards, deltas)
    with pytest.raises(UsageError, match="penalty=-1"):
        sums_of(deltas, statistics).joint(-1.0)
    with pytest.raises(DeltaMismatch, match="no joint statistics"):
        sums_of(deltas, [{}, {}, {}]).joint()
    with pytest.raises(FixedPointOverflow, match="not finite"):
        shard_terms(deltas[0], {**statistics[0], "joint/samples": torch.tensor([float("nan")])})
    broken = [{**one, "joint/inputs": -one["joint/inputs"]} for one in statistics]
    with pytest.raises(DeltaMismatch, match="not those of any inputs"):
        sums_of(deltas, broken).joint()
    slope = next(name for name in statistics[0] if "slope/" in name)
    other = [{name.replace(slope, slope.replace("weight", "wait")): v for name, v in one.items()} for one in statistics]
    with pytest.raises(DeltaMismatch, match="another linearisation"):
        sums_of(deltas, other).joint()
