"""Damage at the command line: what each command exits with, and the way out."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import here
from folder import delta_digests, flip_a_byte, only_cached, shard_of
from tiny import SAMPLES, SHARDS, sample_id

ILL, WELL = 0, 1
OF = [[sample_id(n) for n in range(SAMPLES) if shard_of(sample_id(n), SHARDS) == shard] for shard in range(SHARDS)]
NESTED = b"[" * 200_000


@pytest.fixture
def run(trained: Path, copy_of: Callable[..., Path]) -> Path:
    return copy_of(trained)


@pytest.mark.slow
def test_damaged_part_bars_nobody_and_is_repaired(run: Path, trained: Path, parquet: Path, test_parquet: Path) -> None:
    flip_a_byte(next(run.glob(f"cache/shard={ILL:05d}/*.arrow")))
    assert here("verify", run, "--json").code == 1
    asked = here("forget", run, "--ids", OF[ILL][0], "--mode", "retrain", "--json")
    assert asked.code == 0, asked.err
    assert asked.json["shards_after"] == [{"shard": ILL, "state": "quarantined", "samples": 0}]
    assert here("forget", run, "--ids", OF[WELL][0], "--mode", "drop", "--json").code == 0
    told = here("status", run, "--json")
    assert (told.code, [one["shard"] for one in told.json["quarantined"]]) == (1, [ILL])
    assert any("taft-ray repair" in line for line in told.json["to_do"])
    assert here("evaluate", run, "--data", test_parquet, "--json").code == 1
    assert here("report", run, "--json").code == 1
    assert here("verify", run, "--json").code == 1

    moved = shutil.copytree(parquet, run.parent / "moved")
    mended = here("repair", run, "--data", moved, "--json")
    assert (mended.code, mended.json["repaired"]) == (0, [ILL]), mended.err
    assert here("status", run, "--json").code == here("report", run, "--json").code == 0
    assert here("verify", run, "--json").json["problems"] == []
    assert delta_digests(run)[ILL] != delta_digests(trained)[ILL]  # the forgotten sample was not read again


@pytest.mark.slow
def test_damaged_delta_and_lost_part_can_be_given_up_and_repaired(run: Path, trained: Path) -> None:
    flip_a_byte(next(run.glob(f"deltas/shard={ILL:05d}/*")))
    next(run.glob("cache/shard=00002/*.arrow")).unlink()
    assert here("forget", run, "--ids", OF[WELL][0], "--mode", "drop", "--json").code == 0
    given_up = here("forget", run, "--shard", ILL, "--mode", "drop", "--json")
    assert (given_up.code, given_up.json["shards_after"][0]["state"]) == (0, "empty")
    mended = here("repair", run, "--json")
    assert (mended.code, mended.json["repaired"]) == (0, [2]), mended.err
    assert {shard: delta_digests(run)[shard] for shard in (2, 3)} == {
        shard: delta_digests(trained)[shard] for shard in (2, 3)
    }


@pytest.mark.slow
@pytest.mark.parametrize("key", ["run.json", "ledger/00000000000000000002.json"])
def test_nested_json_is_one_line_and_keeps_the_request(run: Path, key: str, parquet: Path) -> None:
    good = (run / key).read_bytes()
    (run / key).write_bytes(NESTED)
    for command in (("status",), ("repair",), ("evaluate", "--data", parquet)):
        here(command[0], run, *command[1:]).complains(1, key)
    here("forget", run, "--ids", OF[ILL][0], "--mode", "drop").complains(1, key, "The request is kept in")
    assert here("verify", run, "--json").code == 1
    (run / key).write_bytes(good)
    assert len(here("forget", run, "--due", "--json").json["certificates"]) == 1
    assert here("verify", run, "--json").json["problems"] == []


@pytest.mark.slow
def test_training_goes_round_a_damaged_part(run: Path, trained: Path, parquet: Path, model_options: list[str]) -> None:
    flip_a_byte(next(only_cached(run).glob(f"cache/shard={ILL:05d}/*.arrow")))
    options = ("--data", parquet, *model_options, "--shards", SHARDS, "--epochs", 3, "--device", "cpu", "--json")
    told = here("train", run, *options)
    assert (told.code, [one["shard"] for one in told.json["quarantined"]]) == (1, [ILL]), told.err
    assert delta_digests(run) == {shard: one for shard, one in delta_digests(trained).items() if shard != ILL}
    assert here("repair", run, "--json").code == 0
    assert delta_digests(run) == delta_digests(trained)
    assert here("train", run, *options).code == 0
