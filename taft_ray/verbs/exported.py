"""The ``taft_ray`` entry of an exported file, read without torch and without onnx; and what else a released file may be.

A .pt2 file is a zip archive that has the entry as a member. An .onnx file is one protobuf message; its metadata are fields of the
outermost level, so that everything else is skipped by its length.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from taft_ray.storage import MALFORMED, parse_json

_MEMBERS = ("/extra/taft_ray", "/extra_files/taft_ray")
_NAME = b"taft_ray"
_METADATA, _KEY, _VALUE = 14, 1, 2  # fields of onnx.ModelProto, and of its StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_MOST = 16 << 20  # bytes of an entry


def entry_of(path: Path) -> dict[str, Any] | None:
    """The JSON object that an export wrote into the file, or that a statement is; None where there is none."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            text = _in_zip(file) if start == b"PK\x03\x04" else _json(file) if start[:1] == b"{" else _in_onnx(file)
        found = None if text is None else parse_json(text)
    except (*MALFORMED, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    return found if isinstance(found, dict) else None


def _in_zip(file: BinaryIO) -> bytes | None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.endswith(_MEMBERS) and member.file_size <= _MOST:
                return archive.read(member)
    return None


def _json(file: BinaryIO) -> bytes | None:
    data = file.read(_MOST + 1)
    return data if len(data) <= _MOST else None


def _in_onnx(file: BinaryIO) -> bytes | None:
    """The value of the model's metadata of this name; ValueError or EOFError for what is no protobuf message."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        tag = _varint(file)
        length = _length(file, tag & 7)
        if file.tell() + length > size:
            raise EOFError
        if tag >> 3 == _METADATA and length <= _MOST:
            pair = _fields(file.read(length))
            if pair.get(_KEY) == _NAME:
                return pair.get(_VALUE)
        else:
            file.seek(length, io.SEEK_CUR)
    return None


def _fields(data: bytes) -> dict[int, bytes]:
    """The texts of a message, by field."""
    file, found = io.BytesIO(data), {}
    while file.tell() < len(data):
        tag = _varint(file)
        found[tag >> 3] = file.read(_length(file, tag & 7))
    return found


def _length(file: BinaryIO, kind: int) -> int:
    """How many bytes a field's value has from here on."""
    if kind == _VARINT:
        _varint(file)
        return 0
    if kind in (_FIXED64, _FIXED32):
        return 8 if kind == _FIXED64 else 4
    if kind == _BYTES:
        return _varint(file)
    raise ValueError(f"no wire type of protobuf: {kind}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of protobuf has more than ten bytes")
