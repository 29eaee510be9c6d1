"""A spec as a file: a JSON object with some of the fields of a RunSpec, as a sweep writes the best one for `train`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any

from taft_ray.errors import UsageError
from taft_ray.plans.spec import RunSpec
from taft_ray.storage import MALFORMED, parse_json

_MEASURED = ("weights_digest", "versions")  # of the machine and the weights that train finds, never asked for
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (type(None),), "tuple": (list,),
}  # fmt: skip


def write_spec_file(spec: RunSpec) -> bytes:
    """All that can be asked for, as JSON."""
    values = {name: value for name, value in spec.to_json().items() if name not in _MEASURED}
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode()


def parse_spec_file(content: bytes, where: str) -> dict[str, Any]:
    """The fields of a spec file; UsageError for what is no field of a spec, or of another type."""
    try:
        values = parse_json(content.removeprefix(codecs.BOM_UTF8))  # a person's editor may have put it there
    except MALFORMED as error:
        raise UsageError(f"{where} is not JSON: {error}; expected an object of spec fields") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected a JSON object of spec fields, got a {type(values).__name__}")
    fields = {name: field for name, field in RunSpec.__dataclass_fields__.items() if name not in _MEASURED}
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise UsageError(f"{where}: {', '.join(unknown)} cannot be set in a spec; expected {', '.join(sorted(fields))}")
    for name, value in values.items():
        kinds = [kind.strip().partition("[")[0] for kind in str(fields[name].type).split("|")]
        allowed = {allowed for kind in kinds for allowed in _KINDS[kind]}
        if type(value) not in allowed:  # not isinstance: True is no number here
            expected = " or ".join(kinds).replace("tuple", "a list").replace("None", "null")
            raise UsageError(f"{where}: {name}={value!r}: expected {expected}")
        if isinstance(value, list):
            values[name] = tuple(value)
        elif kinds == ["float"]:
            values[name] = float(value)  # 15 and 15.0 are one spec, and must have one digest
    return values
