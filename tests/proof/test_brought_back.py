"""A retrain of a shard that earlier drops took out: its certificate says without whose samples the shard came back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder import plain_forget, shard_of
from html_page import Page
from plain import plain_train
from proved import one_of_each_shard
from tiny import SAMPLES, SHARDS, sample_id

from taft_ray.answers import Certificate
from taft_ray.pages import certificate_page
from taft_ray.proof.contradictions import contradictions, inconsistencies
from taft_ray.proof.verify_certificate import verify_certificate
from taft_ray.proof.verify_run import verify
from taft_ray.storage import Ledger, Store

Proved = tuple[Path, dict[str, dict[str, Any]]]
Copy = Callable[..., Path]


def another_of_shard_1() -> str:
    return next(n for n in map(sample_id, range(SAMPLES)) if shard_of(n, SHARDS) == 1 and n != one_of_each_shard()[1])


@pytest.mark.parametrize("mode", ["retrain", "resolve"])
def test_shard_that_comes_back_is_certified_without_the_samples_of_its_drops(
    proved: Proved, copy_of: Copy, mode: str
) -> None:
    """Two drops took the shard out; a third request brings it back, and forgets nobody."""
    run, first = copy_of(proved[0]), proved[1]["drop"]
    other = another_of_shard_1()
    second = plain_forget(run, [other], "drop")
    told = plain_forget(run, [one_of_each_shard()[1], other], mode)
    assert (told["samples"], told["id_hashes"], told["shards"]) == (0, [], [1])
    assert told["brought_back"] == [
        {"request": one["request"], "samples": 1, "id_hashes": one["id_hashes"], "shards": [1]}
        for one in (first, second)
    ]
    assert verify(str(run), retrain=True)["problems"] == []
    checked = verify_certificate(str(next((run / "certificates").glob(f"{told['request']}-*.json"))), run=str(run))
    assert checked["problems"] == []
    text = str(Certificate.from_json(told))
    assert f"came back    shard 1, without what request {first['request']} forgot (1 sample)" in text
    page = Page(certificate_page(told)).text
    assert "every sample that was named had been forgotten before." in page
    assert f"In the model again shard 1, without what request {first['request']} forgot (1 sample)" in page
    assert "0 samples" not in page.partition("Every field of the certificate")[0]
    assert all(one["id_hashes"][0] in page for one in (first, second))


def test_shard_that_comes_back_while_others_are_forgotten_is_told_apart(proved: Proved, copy_of: Copy) -> None:
    run, shards = copy_of(proved[0]), one_of_each_shard()
    told = plain_forget(run, [shards[1], shards[3]], "retrain")
    assert (told["samples"], told["shards"]) == (1, [1, 3])
    assert [(one["request"], one["shards"]) for one in told["brought_back"]] == [(proved[1]["drop"]["request"], [1])]
    assert verify(str(run))["problems"] == []


def test_forget_that_brings_nothing_back_says_nothing_of_it(proved: Proved, copy_of: Copy) -> None:
    assert not any("brought_back" in certificate for certificate in proved[1].values())
    run = copy_of(proved[0])
    plain_forget(run, [one_of_each_shard()[1]], "retrain")
    again = plain_forget(run, [another_of_shard_1()], "retrain")
    assert "brought_back" not in again, "the shard was in the model"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 5}, "it says 5 samples of request"),
        ({"id_hashes": ["ab" * 16]}, "are not those of the ledger"),
        ({"shards": [0]}, "are not those of the ledger"),
        ({"request": "ffff0000"}, "are not those of the ledger"),
    ],
)
def test_other_drops_than_the_ledger_has_are_found(
    proved: Proved, copy_of: Copy, changes: dict[str, Any], words: str
) -> None:
    run = copy_of(proved[0])
    told = plain_forget(run, [one_of_each_shard()[1]], "retrain")
    entries = Ledger(Store(str(run))).entries()
    assert [*inconsistencies(told), *contradictions(told, entries)] == []
    forged = {**told, "brought_back": [{**told["brought_back"][0], **changes}]}
    assert any(words in problem for problem in [*inconsistencies(forged), *contradictions(forged, entries)])


def test_shard_of_an_additive_run_comes_back_with_the_same_words(
    tmp_path: Path, parquet: Path, spec_of: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    plain_train(run, spec_of(parquet, solver="additive", features=16))
    dropped = plain_forget(run, [sample_id(3)], "drop")
    told = plain_forget(run, [sample_id(3)], "retrain")
    assert [one["request"] for one in told["brought_back"]] == [dropped["request"]]
    assert "0 samples" not in str(Certificate.from_json(told))
    assert verify(str(run))["problems"] == []
