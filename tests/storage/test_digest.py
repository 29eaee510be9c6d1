"""Digests depend on content and on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taft_ray.errors import IntegrityError
from taft_ray.storage import canonical_json, digest_bytes, digest_json, digest_tensors
from taft_ray.storage.digest import seal, unseal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TENSORS = st.dictionaries(
    st.text(max_size=8),
    hnp.arrays(
        st.sampled_from(["<i8", "<f2", "<u2", "<f4", "|u1"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=3,
)


def test_digest_is_32_bytes_of_blake2b() -> None:
    assert len(digest_bytes(b"")) == 64
    assert digest_bytes(b"abc") == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_json_digest_ignores_the_order_of_keys(obj: dict) -> None:
    assert digest_json(obj) == digest_json(dict(reversed(obj.items())))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_without_nan(bad: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": bad})


@given(TENSORS)
def test_tensor_digest_ignores_order_strides_and_byte_order(tensors: dict[str, np.ndarray]) -> None:
    expected = digest_tensors(tensors)
    assert digest_tensors(dict(reversed(tensors.items()))) == expected
    assert digest_tensors({name: np.asarray(t, order="F") for name, t in tensors.items()}) == expected
    assert digest_tensors({name: t.astype(t.dtype.newbyteorder(">")) for name, t in tensors.items()}) == expected


def test_tensor_digest_sees_name_dtype_shape_and_bits() -> None:
    base = np.arange(6, dtype=np.int64)
    variants = [
        {"a": base},
        {"b": base},
        {"a": base.reshape(2, 3)},
        {"a": base.reshape(3, 2)},
        {"a": base.astype(np.uint64)},
        {"a": base + 1},
        {"a": base, "b": np.zeros(0, np.int64)},
        {"a": np.array(0.0)},
        {"a": np.array(-0.0)},
        {"a": np.array([0.0])},
        {},
    ]
    assert len({digest_tensors(tensors) for tensors in variants}) == len(variants)


@given(st.dictionaries(st.text(), JSON, max_size=4).filter(lambda body: "digest" not in body), st.data())
def test_sealed_json_comes_back_or_is_refused(body: dict, data: st.DataObject) -> None:
    sealed = seal(body, "digest")
    opened = unseal(sealed, "digest", "here")
    assert canonical_json({k: v for k, v in opened.items() if k != "digest"}) == canonical_json(body)
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), sealed[:position], sealed + b" "):
        with pytest.raises(IntegrityError, match="here"):
            unseal(damaged, "digest", "here")
