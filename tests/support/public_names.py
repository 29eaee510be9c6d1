"""The names that callers may rely on, as plain JSON: commands and options, the Python API, errors, answers, facts.

PYTHONPATH=.:tests/support python tests/support/public_names.py      writes tests/answers/public_names.json, at a release
"""

import inspect
import json
from pathlib import Path
from typing import Any

from schemas import schemas

import taft_ray
from taft_ray import answers, errors
from taft_ray.cli import main
from taft_ray.plans.facts import KINDS

RECORDED = Path(__file__).parents[1] / "answers" / "public_names.json"
_SAID = ("title", "description", "$schema", "default")  # of a schema: prose, and what is no type


def public_names() -> dict[str, Any]:
    """Everything that is public now."""
    return {
        "commands": {name: _options(command) for name, command in sorted(main.commands.items())},
        "taft_ray": sorted(taft_ray.__all__),
        "taft_ray.answers": sorted(answers.__all__),
        "Run": {
            name: [one for one in inspect.signature(method).parameters if one != "self"]
            for name, method in sorted(vars(taft_ray.Run).items())
            if not name.startswith("_") and callable(method)
        },
        "errors": {
            name: {"is a": [one.__name__ for one in kind.__mro__[1:-3]], "exit code": kind.exit_code}
            for name, kind in sorted(vars(errors).items())
            if isinstance(kind, type) and issubclass(kind, errors.TaftError)
        },
        "facts": sorted(KINDS),
        "schemas": {name: _types(schema) for name, schema in schemas().items()},
    }


def gone(before: Any, now: Any, where: str = "") -> list[str]:
    """Places of everything that was public and is gone, or is something else. More of anything is no loss."""
    if isinstance(before, dict) and isinstance(now, dict):
        lost = [f"{where}/{name}" for name in before if name not in now]
        kept = [name for name in before if name in now]
        return lost + [one for name in kept for one in gone(before[name], now[name], f"{where}/{name}")]
    if isinstance(before, list) and isinstance(now, list):
        return [f"{where}/{json.dumps(one)}" for one in before if one not in now]
    return [] if before == now else [where]


def _options(command: Any) -> list[str]:
    return sorted(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))


def _types(schema: Any) -> Any:
    """A schema without its prose; a field that is called title is one all the same."""
    if isinstance(schema, list):
        return [_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name not in _SAID}
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {name: _types(value) for name, value in schema["properties"].items()}
    return {name: value if name == "properties" else _types(value) for name, value in kept.items()}


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(value, sort_keys=True)}' for name, value in public_names().items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
