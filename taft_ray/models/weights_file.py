"""A file of weights: its bytes, its tensors, and the name of whatever it is instead of safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from taft_ray.data import access
from taft_ray.errors import StorageError, TaftError, WeightsMismatch

_UNPICKLE = (
    "convert it where you trust it: safetensors.torch.save_file(STATE_DICT, 'weights.safetensors') after "
    "torch.load(FILE, weights_only=True)"
)
_OWN_FILE = "take the .safetensors file of the model instead"
_UNPACK = "unpack it and give the .safetensors file in it"
# a file's first bytes, its kind, and the way out
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
    (b"GGUF", "a GGUF file", _OWN_FILE),
    (b"\x89HDF", "an HDF5 file (Keras)", _OWN_FILE),
    (b"\x93NUMPY", "a NumPy array", _OWN_FILE),
    (b"\x80", "a pickled PyTorch checkpoint (.pth, .pt, .bin)", _UNPICKLE),
    (b"\x1f\x8b", "gzip", _UNPACK),
    (b"BZh", "bzip2", _UNPACK),
    (b"\xfd7zXZ", "xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "Zstandard", _UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF", _OWN_FILE),
    (b"\x89PNG", "a picture", _OWN_FILE),
    (b"\xff\xd8\xff", "a picture", _OWN_FILE),
)
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
_TAR_MAGIC = slice(257, 262)
_HEADER_LENGTH = 8  # bytes of safetensors before its JSON


def read_weights(uri: str) -> bytes:
    """The bytes of a weights file; StorageError when they cannot be had."""
    try:
        with access.open_file(uri) as file:
            return file.read()
    except TaftError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"no weights at {uri}; expected a safetensors file") from error
    except IsADirectoryError as error:
        raise StorageError(f"weights {uri} cannot be read: it is a folder; give the .safetensors file in it") from error
    except Exception as error:  # object stores' clients raise classes of their own
        raise StorageError(f"weights {uri} cannot be read: {error}") from error


def parse_weights(content: bytes, uri: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; WeightsMismatch says what else the file is, and how it is converted."""
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # safetensors raises KeyError and others where torch has no such type
        unknown = _unknown_types(content)
        if unknown:
            raise WeightsMismatch(
                f"{uri} holds numbers that torch has no type for ({unknown}); write them as float32"
            ) from error
        what, way_out = what_it_is(content)
        reason = f"it is {what}" if what else str(error)
        raise WeightsMismatch(f"{uri} is not a whole safetensors file: {reason}; {way_out}") from error


def what_it_is(content: bytes) -> tuple[str, str]:
    """The kind that bytes other than safetensors look like ("" when nobody can tell), and the way out."""
    if not content:
        return "empty", "download or write it again"
    if content.startswith(b"PK\x03\x04"):
        if b"data.pkl" in content[:4096] or b"/data/" in content[:4096]:
            return "a pickled PyTorch checkpoint (.pth, .pt, .bin)", _UNPICKLE
        return "a zip archive", _UNPACK
    for magic, what, way_out in _KINDS:
        if content.startswith(magic):
            return what, way_out
    if content[_TAR_MAGIC] == b"ustar":
        return "a tar archive", _UNPACK
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_MARKUP):
        return "a web page", "download the file itself (on a model hub the address has /resolve/, not /blob/)"
    if start.startswith(b"{"):
        if b'"weight_map"' in content:
            return "the index of a model in several files", "merge its files into one safetensors file"
        return "JSON", _OWN_FILE
    if b"onnx" in content[:64].lower() or b"pytorch" in content[:64].lower():
        return "an ONNX graph", _OWN_FILE
    return "", "convert or download it again"


def _unknown_types(content: bytes) -> str:
    """Names and types of tensors that a readable header lists and torch cannot hold; "" when there are none."""
    length = int.from_bytes(content[:_HEADER_LENGTH], "little")
    try:
        header = json.loads(content[_HEADER_LENGTH : _HEADER_LENGTH + length])
        listed = {key: entry["dtype"] for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return ""
    known: Mapping[str, object] = safetensors.torch._TYPES
    odd = [f"{key}: {dtype}" for key, dtype in listed.items() if dtype not in known]
    return ", ".join(odd[:3])
