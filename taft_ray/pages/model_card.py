"""A run's model card: README.md with the fields of Hugging Face's model cards in front, as far as the run knows them.

Unknown fields, such as the licence, are left out. The front matter is YAML whose values are JSON: every text is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from taft_ray.counting import plural

_PLACE = re.compile(r"^(/|\.|~|[A-Za-z][A-Za-z0-9+.-]*:|[A-Za-z]:\\)")  # an address, and no name of a hub
_MARKS = re.compile(r"([\\`*_\[\]|<>~$&])")


def model_card(told: Mapping[str, Any]) -> str:
    """The card of a dossier's facts."""
    front = "".join(f"{name}: {yaml_value(value)}\n" for name, value in front_matter(told).items())
    return f"---\n{front}---\n\n{_text(told)}"


def front_matter(told: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata fields, each only where the run knows it."""
    model, measured = told["model"], told["model"]["evaluation"]
    tags = ["taft_ray", "machine-unlearning", *(["differential-privacy"] if told["privacy"] else [])]
    sources = [one["data"] for one in told["data"]["sources"]]
    named = [one for one in sources if not _PLACE.match(one)]
    fields: dict[str, Any] = {"library_name": "taft_ray", "pipeline_tag": "image-classification", "tags": tags}
    if not _PLACE.match(model["model"]):
        fields["base_model"] = model["model"]
    if named:
        fields["datasets"] = named
    if measured is not None:
        metric = {"type": "accuracy", "value": measured["accuracy"]}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": measured["data"], "type": measured["data"]},
            "metrics": [metric],
        }
        fields["metrics"] = ["accuracy"]
        fields["model-index"] = [{"name": (model["composed"] or "model")[:16], "results": [result]}]
    return fields


def yaml_value(value: Any) -> str:
    """A JSON value as YAML reads it: what a YAML text may not hold is escaped, half surrogates become question marks."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    return "".join(one if one == " " or one.isprintable() else _escaped(one) for one in text)


def _escaped(letter: str) -> str:
    number = ord(letter)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def inline(value: Any) -> str:
    """A text of outside on one line of Markdown, where it means nothing but itself."""
    text = str(value).encode("utf-8", "replace").decode()
    shown = "".join(one if one.isprintable() else " " for one in text)
    return _MARKS.sub(r"\\\1", shown)


def _text(told: Mapping[str, Any]) -> str:
    model, data = told["model"], told["data"]
    parts = [
        "# Model card",
        f"A classifier of pictures that forgets samples exactly, on {inline(model['model'])}. This card has what its run knows, and "
        "leaves out what it does not know, such as a licence. [index.html](index.html) has the rest of the dossier.",
        "## Model",
        _pairs(
            [
                ("Digest of the model", model["composed"] or "no part is in the model"),
                ("Network", model["model"]),
                ("Digest of the network's weights", model.get("weights_digest") or None),
                ("Solver", model.get("solver")),
                ("Composition", model.get("compose")),
                ("Shards", model.get("shards")),
                ("Made", model["created"]),
            ]
        ),
        "## Data",
        _pairs(
            [
                ("Sources", ", ".join(one["data"] for one in data["sources"])),
                ("Rows as read in", (data["counts"] or {}).get("rows")),
                ("Rejected rows", (data["counts"] or {}).get("rejected")),
                ("Samples now", data["samples"]),
                ("Owners", data["owners"]),
                ("Classes", ", ".join(data["classes"]) or None),
            ]
        ),
        "## Evaluation",
        _evaluation(model["evaluation"]),
        "## Forgetting",
        f"{plural(len(told['requests']), 'request')} to forget, {sum(one['done'] for one in told['requests'])} of them with a "
        "certificate. [VERIFY.md](VERIFY.md) says how to check these files without taft\\_ray.",
    ]
    if told["privacy"]:
        spent = told["privacy"]
        parts += ["## Privacy", f"ε = {spent['epsilon']:g} at δ = {spent['delta']:g}, per {inline(spent['unit'])}."]
    if told["not_covered"]:
        parts += [
            "## Limits",
            "The certificates do not cover:",
            "\n".join(f"- {inline(one)}" for one in told["not_covered"]),
        ]
    return "\n\n".join(parts) + "\n"


def _pairs(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(f"- {name}: {inline(value)}" for name, value in rows if value is not None)


def _evaluation(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "The run has no evaluation of the model that it has now."
    return f"Accuracy {measured['accuracy']:.2%} on {measured['n']:,} pictures of {inline(measured['data'])}, measured by this run."
