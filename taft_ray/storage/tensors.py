"""Named tensors with text beside them, as safetensors named by content. Deltas and checkpoints are written so."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from taft_ray.errors import IntegrityError, UsageError
from taft_ray.storage.digest import canonical_json, check_digest, digest_bytes, little_endian
from taft_ray.storage.json_text import MALFORMED, parse_json
from taft_ray.storage.objects import Store

_META = "taft_ray"


class Written(NamedTuple):
    key: str
    digest: str
    bytes: int


def write_tensors(store: Store, stem: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, str]) -> Written:
    """Write `tensors` and `meta` as ``{stem}-{digest[:16]}.safetensors``.

    Guarantees: equal content gives equal bytes, hence an equal key, so that writing again is harmless; shapes and
    values come back exactly.
    """
    # safetensors writes its metadata in the order of a hash map: one entry is what makes the bytes deterministic
    data = save({name: little_endian(tensors[name]) for name in sorted(tensors)}, {_META: _text(meta)})
    digest = digest_bytes(data)
    key = f"{stem}-{digest[:16]}.safetensors"
    store.write(key, data)
    return Written(key, digest, len(data))


def read_tensors(store: Store, key: str, digest: str, *, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (by sorted name) and the meta of `what`; `IntegrityError` naming the object if a byte differs."""
    where = f"{key} in {store.uri}"
    data = store.read(key)
    check_digest(data, digest, where)
    try:
        tensors = load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = parse_json(header["__metadata__"][_META])
    except (SafetensorError, *MALFORMED) as error:
        raise IntegrityError(f"{where} is not a {what} written by taft_ray ({error}); train it again") from error
    return {name: tensors[name] for name in sorted(tensors)}, meta


def _text(meta: Mapping[str, str]) -> str:
    wrong = sorted(str(name) for name, value in meta.items() if not isinstance(name, str) or not isinstance(value, str))
    if wrong:
        raise UsageError(f"expected meta of strings, got other types for {wrong}; convert them")
    return canonical_json(dict(meta)).decode("ascii")
