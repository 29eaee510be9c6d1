"""The part of the constants that is kept within a budget: every way gives the same ones, and what is kept is not computed again."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from cases import BY_ID, CASES, Case, build, images
from torch import Tensor

from taft_ray.fitting import FitConfig, fit
from taft_ray.tangent import Pictures, Prepared, Recomputed, TangentModel, batches, linearize, prepare_pictures
from taft_ray.tangent import model as model_module
from taft_ray.tangent import prepared as prepared_module
from taft_ray.tangent.rule import Selected

EVERYTHING = 1 << 40
VIT = BY_ID["vit"]
COUNT = 7


@pytest.fixture(autouse=True)
def every_layer_is_worth_keeping(monkeypatch: pytest.MonkeyPatch):
    """The networks of the tests are narrow."""
    monkeypatch.setattr(model_module, "_WORTH", 1.0)


def tangent_model(case: Case = VIT, last_blocks: int | str = 2) -> tuple[TangentModel, Tensor]:
    tm = linearize(build(case), last_blocks=last_blocks)
    return tm, tm.prefix(images(case, count=COUNT))


def output_bytes(tm: TangentModel, tokens: Tensor) -> list[tuple[str, int]]:
    return [(name, value.nbytes) for name, value in tm.layer_outputs(tokens).items()]


def kept_by(pictures: Pictures) -> list[str]:
    assert isinstance(pictures, Recomputed)
    assert pictures.kept == len(pictures._known)
    return list(pictures._known)


@contextmanager
def counting_calls(tm: TangentModel) -> Iterator[Counter[str]]:
    calls: Counter[str] = Counter()

    def count(name: str):
        return lambda *_: calls.update([name])

    handles = [module.register_forward_hook(count(name)) for name, module in tm.network.named_modules() if name]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_known_outputs_give_the_same_constants_bit_for_bit(case: Case):
    tm, tokens = tangent_model(case)
    outputs = tm.layer_outputs(tokens)
    expected = tm.prepare(tokens)
    for _ in range(2):  # a pass must not write over what it was given
        got = tm.prepare(tokens, {name: value[:] for name, value in outputs.items()})
        assert torch.equal(got.primal, expected.primal)
        assert list(got.saved) == list(expected.saved)
        assert all(torch.equal(got.saved[name], value) for name, value in expected.saved.items())


@pytest.mark.parametrize("case", [VIT, BY_ID["vit-glu-gate-first"], BY_ID["resnet-basic"]], ids=lambda case: case.id)
def test_known_layers_are_not_called(case: Case):
    tm, tokens = tangent_model(case)
    outputs = tm.layer_outputs(tokens)
    assert outputs
    with counting_calls(tm) as calls:
        tm.prepare(tokens)
        assert set(outputs) <= set(calls)
        calls.clear()
        tm.prepare(tokens, outputs)
        assert not set(outputs) & set(calls)


def test_what_saves_most_for_a_byte_comes_first():
    tm, tokens = tangent_model(last_blocks=3)
    names = list(tm.layer_outputs(tokens))
    # 4 D multiply-adds a value against D; the last block reads one row and forms no keys and values
    assert names[:3] == [f"blocks.{index}.mlp.fc2" for index in range(3)]
    assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc1", "head"} <= set(names[3:])


def test_a_budget_is_filled_in_that_order_and_kept_to():
    tm, tokens = tangent_model()
    whole = tm.prepare(tokens).nbytes()
    sizes = output_bytes(tm, tokens)
    assert isinstance(prepare_pictures(tm, tokens, budget=whole), Prepared)
    for count in range(len(sizes) + 1):
        budget = sum(size for _, size in sizes[:count])
        assert budget < whole
        assert kept_by(prepare_pictures(tm, tokens, budget=budget)) == [name for name, _ in sizes[:count]]
        if count:
            assert kept_by(prepare_pictures(tm, tokens, budget=budget - 1)) == [name for name, _ in sizes[: count - 1]]


def test_the_budget_of_the_package_is_the_default(monkeypatch: pytest.MonkeyPatch):
    tm, tokens = tangent_model()
    assert isinstance(prepare_pictures(tm, tokens), Prepared)
    monkeypatch.setattr(prepared_module, "PREPARED_BUDGET", 0)
    assert kept_by(prepare_pictures(tm, tokens)) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("solver", ["ridge", "adam"])
def test_every_budget_gives_the_same_fit(solver: str, share: float):
    tm, tokens = tangent_model()
    labels = torch.arange(COUNT) % tm.num_classes
    config = FitConfig(solver=solver, epochs=3, batch_size=3, milestones=(), tolerance=1e-10, max_iterations=2000)
    budget = int(share * sum(size for _, size in output_bytes(tm, tokens)))
    pictures = prepare_pictures(tm, tokens, budget=budget)
    assert isinstance(pictures, Recomputed)
    prepared = tm.prepare(tokens)
    # outputs are compared: a key's bias changes none, so that Adam makes steps of whatever its gradient was rounded to
    expected, got = (tm.tangent(prepared, fit(tm, each, labels, config)) for each in (prepared, pictures))
    assert float((got - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.parametrize("budget", [0, 3000, EVERYTHING])
def test_rows_choose_and_order_the_pictures(budget: int):
    tm, tokens = tangent_model()
    rows = torch.tensor([5, 0, 3])
    pictures = prepare_pictures(tm, tokens, rows, budget=budget)
    expected = tm.prepare(tokens[rows])
    assert len(pictures) == 3
    for index in (torch.tensor([2, 0]), slice(1, 3)):
        got, wanted = pictures[index], expected[index]
        torch.testing.assert_close(got.primal, wanted.primal)
        assert all(got.saved[name].shape == value.shape for name, value in wanted.saved.items())
    torch.testing.assert_close(torch.cat([batch.primal for _, batch in batches(pictures, 2)]), expected.primal)


@pytest.mark.parametrize("budget", [30_000, EVERYTHING])
def test_no_pass_has_pictures_of_two_groups(budget: int, monkeypatch: pytest.MonkeyPatch):
    tm, tokens = tangent_model()
    seen: list[int] = []
    for name in ("prepare", "layer_outputs"):
        original = getattr(tm, name)

        def note(given: Tensor, *known: object, original=original):
            seen.append(len(given))
            return original(given, *known)

        monkeypatch.setattr(tm, name, note)
    prepare_pictures(tm, tokens, sizes=[4, 3], budget=budget)
    assert seen[-2:] == [4, 3]
    assert set(seen[:-2]) <= {1}  # the picture that tells how large they are


@pytest.mark.parametrize("sizes", [[0, 7], [3, 0, 4], [7, 0]])
@pytest.mark.parametrize("budget", [0, 20_000, 40_000, EVERYTHING])
def test_empty_groups_change_nothing(budget: int, sizes: list[int]):
    tm, tokens = tangent_model()
    expected = prepare_pictures(tm, tokens, budget=budget)
    got = prepare_pictures(tm, tokens, sizes=sizes, budget=budget)
    assert type(got) is type(expected)
    if isinstance(got, Recomputed):
        assert kept_by(got) == kept_by(expected)
    torch.testing.assert_close(got[slice(0, COUNT)].primal, expected[slice(0, COUNT)].primal)


@pytest.mark.parametrize("budget", [0, 5000, EVERYTHING])
def test_one_picture(budget: int):
    tm, tokens = tangent_model()
    pictures = prepare_pictures(tm, tokens[:1], budget=budget)
    assert len(pictures) == 1
    torch.testing.assert_close(pictures[torch.tensor([0])].primal, tm.prepare(tokens[:1]).primal)


def test_what_is_recomputed_comes_in_small_batches(monkeypatch: pytest.MonkeyPatch):
    """A batch's constants are as large as they were when they did not fit into memory."""
    monkeypatch.setattr(prepared_module, "RECOMPUTE_CHUNK", 2)
    tm, tokens = tangent_model()
    parts = [part for part, _ in batches(Recomputed(tm, tokens), 256)]
    assert [part.stop - part.start for part in parts] == [2, 2, 2, 1]


@pytest.mark.parametrize("outer", [slice(1, 6), slice(None, None, 2), torch.tensor([5, 0, 3, 3])], ids=str)
@pytest.mark.parametrize("inner", [slice(1, 3), torch.tensor([2, 0, 2])], ids=str)
def test_a_selection_of_a_selection_is_of_the_pool(outer: slice | Tensor, inner: slice | Tensor) -> None:
    tm, tokens = tangent_model(last_blocks=1)
    prepared = tm.prepare(tokens)
    chosen = torch.arange(COUNT)[outer][inner]
    twice = prepared[outer][inner]
    assert torch.equal(twice.primal, prepared.primal[chosen])
    assert all(torch.equal(twice.saved[name], value[chosen]) for name, value in prepared.saved.items())
    if isinstance(outer, Tensor):
        assert isinstance(twice.saved, Selected)
        assert twice.saved.pool is prepared.saved
