"""The contract's JSON: one object on stdout and nothing else, with the names that others rely on."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command import here, spawned
from tiny import SAMPLES, SHARDS, sample_id

from taft_ray.data import assign, sample_keys

STATUS = {
    "run",
    "composed",
    "shards",
    "requests",
    "monolith",
    "data",
    "samples",
    "to_do",
    "ok",
    "quarantined",
    "damaged",
    "kind",
    "model",
    "classes",
    "accuracy",
    "measured_on",
}


@pytest.fixture(autouse=True)
def _ray(ray_session: None) -> None:
    """The tests' own Ray, which stays when a command leaves it."""


def test_train_again_answers_like_status(trained: Path, parquet: Path, model_options: list[str]) -> None:
    answer = here(
        "train", trained, "--data", parquet, *model_options, "--shards", SHARDS, "--epochs", 3, "--device", "cpu",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.json.keys() >= STATUS
    assert answer.json["composed"] == answer.json["compose"]["digest"]


def test_status(trained: Path) -> None:
    answer = here("status", trained, "--json")
    assert answer.code == 0, answer.err
    assert answer.json.keys() == STATUS
    assert len(answer.json["shards"]) == SHARDS
    for shard in answer.json["shards"]:
        assert shard.keys() == {"shard", "generation", "samples", "state", "delta"}
    assert len(answer.json["composed"]) == 64


def test_estimate_and_dry_run_change_nothing(trained: Path) -> None:
    before = sorted(path.name for path in trained.rglob("*"))
    answer = here("estimate", trained, "--ids", sample_id(3), "--json")
    assert answer.code == 0, answer.err
    assert answer.json.keys() == {
        "mode", "samples_to_forget", "shards", "samples_to_retrain", "seconds", "bytes_to_purge",
        "gpu_hour_price", "cost",
    }  # fmt: skip
    assert answer.json["samples_to_forget"] == 1
    assert answer.json["bytes_to_purge"] > 0
    dry = here("forget", trained, "--ids", sample_id(3), "--dry-run", "--json")
    assert dry.json == answer.json
    assert sorted(path.name for path in trained.rglob("*")) == before


def test_evaluate(trained: Path, test_parquet: Path) -> None:
    answer = here("evaluate", trained, "--data", test_parquet, "--json")
    assert answer.code == 0, answer.err
    assert {"accuracy", "n", "composed"} <= answer.json.keys()
    assert answer.json["n"] == 48


def test_forget_answers_with_the_certificate(trained: Path, copy_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(trained)
    (tmp_path / "ids").write_bytes(f"{sample_id(0)}\n\n{sample_id(0)}\r\n".encode())
    answer = here("forget", run, "--ids", f"@{tmp_path / 'ids'}", "--mode", "drop", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["samples"] == 1
    kept = list((run / "certificates").glob(f"{answer.json['request']}-*.json"))
    assert [json.loads(path.read_text()) for path in kept] == [answer.json]
    again = here("forget", run, "--ids", sample_id(0), "--mode", "drop", "--json")
    assert again.code == 0, again.err
    assert again.json == {**answer.json, "repeated": True}
    for_a_person = here("forget", run, "--ids", sample_id(0), "--mode", "drop").out
    assert f"certificate  {kept[0]}\n" in for_a_person
    assert for_a_person.startswith("Nothing was left to forget.")
    assert "\n  models that were handed out" in for_a_person


def test_what_was_forgotten_before_is_named_by_its_request(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    first = here("forget", run, "--ids", sample_id(0), "--mode", "drop", "--json").json
    before = [{"request": first["request"], "mode": "drop", "samples": 1, "done": True}]
    mixed = here("forget", run, "--ids", sample_id(0), "--ids", sample_id(1), "--mode", "drop", "--json").json
    assert mixed["samples"] == 1
    assert mixed["forgotten_before"] == before
    (kept,) = (run / "certificates").glob(f"{mixed['request']}-*.json")
    assert "forgotten_before" not in json.loads(kept.read_text())
    third = here("forget", run, "--ids", sample_id(0), "--ids", sample_id(2), "--mode", "drop").out
    assert f"1 sample forgotten before, by request {first['request']} (mode drop)\n" in third


def test_what_waits_for_another_request_is_named_by_it(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    first = here("forget", run, "--ids", sample_id(0), "--mode", "retrain", "--deadline", "30d", "--json").json
    both = ("--ids", sample_id(0), "--ids", sample_id(1))
    later = here("forget", run, *both, "--mode", "retrain", "--deadline", "40d", "--json").json
    assert later["forgotten_before"] == [{"request": first["request"], "mode": "retrain", "samples": 1, "done": False}]


def test_status_says_what_an_older_copy_left_to_do(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    assert here("status", run, "--json").json["to_do"] == []
    request = here("forget", run, "--ids", sample_id(0), "--mode", "retrain", "--json").json["request"]
    assert here("status", run, "--json").json["samples"] == SAMPLES - 1
    shutil.rmtree(run)
    shutil.copytree(trained, run)
    (to_do,) = here("status", run, "--json").json["to_do"]
    assert request in to_do
    assert to_do.endswith(f"taft-ray forget {run} --due")
    due = here("forget", run, "--due")
    assert due.code == 0, due.err
    assert "rests_on" not in due.out, "short, as of one request"
    assert here("status", run, "--json").json["to_do"] == []


def test_price_gives_the_cost(trained: Path) -> None:
    answer = here("estimate", trained, "--owner", "owner-3", "--gpu-hour-price", "2.5", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["samples_to_forget"] == 12
    assert answer.json["gpu_hour_price"] == 2.5
    assert 0 < answer.json["cost"] < 2.5


def test_waiting_requests_are_promised_shown_and_carried_out(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    promise = here("forget", run, "--ids", sample_id(0), "--mode", "retrain", "--deadline", "30d", "--json")
    assert promise.code == 0, promise.err
    assert promise.json.keys() == {"request", "mode", "waiting", "runs_with", "runs_at", "deadline"}
    assert promise.json["waiting"] is True
    runs_at, deadline = (datetime.fromisoformat(promise.json[name]) for name in ("runs_at", "deadline"))
    assert datetime.now(UTC) < runs_at <= deadline < datetime.now(UTC) + timedelta(days=30)
    shown = here("status", run, "--json").json["requests"]
    assert [(r["request"], r["done"]) for r in shown] == [(promise.json["request"], False)]
    assert shown[0]["runs_at"] == pytest.approx(runs_at.timestamp())
    assert here("verify", run, "--json").json["problems"] == []
    waits = {"request": promise.json["request"], "samples": 1, **{n: promise.json[n] for n in ("runs_at", "deadline")}}
    assert here("forget", run, "--due", "--json").json == {"certificates": [], "waiting": [waits]}

    soon = here("forget", run, "--ids", sample_id(1), "--mode", "retrain", "--deadline", "2s", "--json")
    assert soon.code == 0, soon.err
    time.sleep(2)
    due = here("forget", run, "--due", "--json")
    assert due.code == 1, "a timer that came too late must say so"
    assert [(one["request"], one["carried_out"]) for one in due.json["late"]] == [(soon.json["request"], True)]
    assert due.json["ok"] is False
    assert here("forget", run, "--due").code == 0
    assert soon.json["request"] in [certificate["request"] for certificate in due.json["certificates"]]
    assert here("verify", run, "--json").json["problems"] == []


def test_audit(trained: Path, copy_of: Callable[..., Path], parquet: Path, test_parquet: Path) -> None:
    run = copy_of(trained)
    command = ("audit", run, "--data", parquet, "--never-seen", test_parquet, "--level", 0.05, "--json")
    here(*command).complains(2, "has forgotten nothing")
    names = [sample_id(n) for n in range(SAMPLES)]
    shard = assign(sample_keys(names, 0), shards=SHARDS)
    asked = [name for name, number in zip(names, shard, strict=True) if number == 3]
    here("forget", run, *(f"--ids={name}" for name in asked), "--mode", "drop", "--json")
    answer = here(*command, "--record")
    assert answer.code == 0, answer.err
    outcome = (run / answer.json["recorded"]).read_text()
    assert not [name for name in names if name in outcome]
    assert [(one["verb"], one["ok"], one["since"]) for one in here("status", run, "--json").json["outcomes"]] == [
        ("audit", answer.json["ok"], 0)
    ]
    assert {"ok", "verdict", "why", "shards", "auc", "auc_ci", "p_value", "power", "control"} <= answer.json.keys()
    assert (answer.json["forgotten"], answer.json["never_seen"]) == (len(asked), 48)


def test_unknown_id_is_wrong_usage(trained: Path) -> None:
    here("forget", trained, "--ids", "nobody", "--ids", "nothing", "--mode", "drop").complains(2, "'nobody', 'nothing'")


def test_run_of_another_spec_names_the_fields(trained: Path, parquet: Path, model_options: list[str]) -> None:
    answer = here(
        "train", trained, "--data", parquet, *model_options, "--shards", SHARDS + 1, "--kappa", 5, "--device", "cpu"
    )
    answer.complains(2, "['epochs', 'kappa', 'shards']")


def test_verify_report_and_gc_need_no_ray(trained: Path) -> None:
    """In one process of their own each, without any Ray to find; stdout has the answer only."""
    answer = spawned("verify", trained, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["ok"] is True
    answer = spawned("report", trained, "--json")
    assert answer.code == 0, answer.err
    assert Path(answer.json["page"]).exists()
    answer = spawned("gc", trained, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["removed"] == []


def test_verify_of_a_damaged_run_exits_1_and_still_answers(trained: Path, copy_of: Callable[..., Path]) -> None:
    run = copy_of(trained)
    delta = next(run.glob("deltas/*/*.safetensors"))
    delta.write_bytes(delta.read_bytes()[:-1])
    answer = here("verify", run, "--json")
    assert answer.code == 1
    assert answer.json["ok"] is False
    assert delta.name in answer.json["problems"][0]


def test_answer_for_a_person_is_text(trained: Path) -> None:
    answer = here("verify", trained)
    assert answer.code == 0
    assert answer.out.startswith("The run is as its ledger says: no problem was found.")


@pytest.mark.slow
def test_more_shards_than_samples_leaves_some_empty(
    tmp_path: Path, model_options: list[str], test_parquet: Path
) -> None:
    answer = here(
        "train", tmp_path / "run", "--data", test_parquet, *model_options, "--shards", 60, "--max-iterations", 5,
        "--lanes", 1, "--device", "cpu", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    states = [shard["state"] for shard in answer.json["shards"]]
    assert states.count("empty") >= 12
    assert states.count("empty") + states.count("trained") == 60
    assert sum(shard["samples"] for shard in answer.json["shards"]) == 48
