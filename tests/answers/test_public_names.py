"""Names that callers may rely on stay: commands, options, the Python API, errors with their exit codes, answers, facts."""

import copy
import json
from typing import Any

import pytest
from public_names import RECORDED, gone, public_names

BEFORE: dict[str, Any] = json.loads(RECORDED.read_text())


def test_nothing_that_was_public_is_gone() -> None:
    assert gone(BEFORE, public_names()) == []


@pytest.mark.parametrize(
    "path",
    [
        ("commands", "forget"),
        ("commands", "forget", "--deadline"),
        ("taft_ray", "Run"),
        ("Run", "verify"),
        ("Run", "forget", "mode"),
        ("errors", "StorageError"),
        ("errors", "ObjectMissing", "is a", "StorageError"),
        ("facts", "dropped"),
        ("schemas", "Status", "properties", "composed"),
        ("schemas", "Status", "required", "composed"),
        ("schemas", "Status", "$defs", "ShardStatus", "properties", "delta"),
    ],
)
def test_what_goes_is_told_by_its_place(path: tuple[str, ...]) -> None:
    now = copy.deepcopy(BEFORE)
    inside = now
    for step in path[:-1]:
        inside = inside[step]
    if isinstance(inside, list):
        inside.remove(path[-1])
    else:
        del inside[path[-1]]
    assert [path[-1] in one for one in gone(BEFORE, now)] == [True]


def test_another_exit_code_or_type_is_told() -> None:
    now = copy.deepcopy(BEFORE)
    now["errors"]["UsageError"]["exit code"] = 64
    now["schemas"]["Audit"]["properties"]["auc"] = {"type": "string"}
    assert gone(BEFORE, now) == ["/errors/UsageError/exit code", "/schemas/Audit/properties/auc/type"]


def test_more_of_anything_is_no_loss() -> None:
    now = copy.deepcopy(BEFORE)
    now["commands"]["forget"].append("--new")
    now["schemas"]["Status"]["properties"]["site"] = {"type": "string"}
    assert gone(BEFORE, now) == []
