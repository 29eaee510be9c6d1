"""Answers lose nothing on the way through JSON, and their published schemas are those of their types."""

import dataclasses
import json
from typing import Any

import pytest
from schemas import FOLDER, schemas

from taft_ray import answers
from taft_ray.errors import AnswerMismatch

KINDS = sorted({kind for kinds in answers.OF_COMMANDS.values() for kind in kinds}, key=lambda kind: kind.__name__)
STATUS: dict[str, Any] = {
    "run": "/runs/pets",
    "ok": False,
    "composed": None,
    "shards": [{"shard": 0, "generation": 1, "samples": 7, "state": "quarantined", "delta": None}],
    "requests": [],
    "monolith": None,
    "data": {"kept": 7, "rejected": 0},
    "samples": 7,
    "to_do": ["shard 0 is in quarantine"],
    "quarantined": [
        {
            "shard": 0,
            "since": "2026-01-01",
            "objects": [{"key": "k", "problem": "missing"}],
            "samples_without_tokens": 0,
        }
    ],
    "damaged": None,
    "model": "vit",
    "classes": ["ant"],
    "accuracy": None,
    "measured_on": None,
}


def test_published_schemas_are_those_of_the_types() -> None:
    published = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert published == schemas(), "run: PYTHONPATH=.:tests/support python tests/support/schemas.py"


def test_json_comes_back_as_it_went() -> None:
    status = answers.Status.from_json(STATUS)
    assert status.shards[0].state == "quarantined"
    assert status.quarantined[0].objects[0].problem == "missing"
    assert json.dumps(status.to_json()) == json.dumps(STATUS)
    assert answers.Status.from_json(status.to_json()) == status


def test_what_a_newer_version_adds_is_kept() -> None:
    told = {**STATUS, "privacy": {"epsilon": 1.0}, "shards": [{**STATUS["shards"][0], "site": "north"}]}
    assert answers.Status.from_json(told).to_json() == told


def test_what_an_older_version_lacks_is_named() -> None:
    older = {name: value for name, value in STATUS.items() if name not in ("quarantined", "damaged")}
    with pytest.raises(AnswerMismatch, match="Status lacks quarantined, damaged"):
        answers.Status.from_json(older)
    with pytest.raises(AnswerMismatch, match="expected the JSON object of Status, got list"):
        answers.Status.from_json([STATUS])  # type: ignore[arg-type]


def test_optional_fields_are_absent_or_null_as_they_were() -> None:
    trained = answers.Trained.from_json({**STATUS, "compose": None, "seconds": 1.5})
    assert "notes" not in trained.to_json()
    assert answers.Trained.from_json({**trained.to_json(), "notes": None}).to_json()["notes"] is None
    made_here = answers.Trained(**{f.name: getattr(trained, f.name) for f in dataclasses.fields(trained)})
    assert made_here.to_json() == trained.to_json()


def test_an_answer_cannot_be_changed() -> None:
    status = answers.Status.from_json(STATUS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.ok = True  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_documented(kind: type[answers.Answer]) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "a dataclass without a docstring shows its signature"
