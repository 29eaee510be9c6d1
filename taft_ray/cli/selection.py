"""The options that say which samples are meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from taft_ray.cli.answers import Verb
from taft_ray.data.text import decode_text
from taft_ray.errors import UnknownSample, UsageError
from taft_ray.storage import MALFORMED, parse_json

IDS_HELP = (
    "A sample's id as it is, or @file with one id a line (.jsonl: a JSON string a line); may be given several times."
)
_JSON_LINES = (".jsonl", ".ndjson")


def read_ids(text: str) -> list[str]:
    """IDS: one id as it is, or @file with one id a line; FILE.jsonl has a JSON string, or an object with "id", a line.

    Nothing is stripped, split or normalised. A line ends at a line feed, with or without a carriage return before it.
    """
    if not text.startswith("@"):
        _check_text(text)
        if not text:
            raise UsageError("no ids in ''; expected an id, or @file with one id a line")
        return [text]
    path = Path(text[1:])
    try:
        content = decode_text(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"ids file {path} cannot be read: {error}; expected UTF-8 text, one id a line. "
            "An id that begins with @ goes into such a file"
        ) from error
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    if path.suffix.lower() in _JSON_LINES:
        ids = [_json_id(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]
    else:
        ids = [line for line in lines if line]
    if not ids:
        raise UsageError(f"no ids in {path}; expected one id a line")
    return ids


def _json_id(line: str, number: int, path: Path) -> str:
    """The id of a line of JSON."""
    try:
        value = parse_json(line)
    except MALFORMED as error:
        raise UsageError(f"line {number} of {path} is not JSON: {error}") from error
    value = value.get("id") if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UsageError(
            f'line {number} of {path}: expected a string, or an object with a string "id", got {line[:80]}'
        )
    _check_text(str(value))
    return str(value)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the id {text!r} is not UTF-8, and ids are; give it in a file") from error


@contextlib.contextmanager
def explaining_commas(ids: Sequence[str]) -> Iterator[None]:
    """Adds to an unknown id that commas do not separate ids, where one is in it."""
    try:
        yield
    except UnknownSample as error:
        joined = next((name for name in ids if "," in name), None)
        if joined is None:
            raise
        raise UnknownSample(
            f"{error}. A comma is part of an id: {joined!r} is one. Give --ids once per id, or @file with one id a line"
        ) from error


def owners_option(function: Verb) -> Verb:
    """The option for the model of some owners' pictures alone."""
    told = "The model of this owner's pictures alone (an additive run); may be given several times."
    return click.option("--owner", "owners", multiple=True, metavar="NAME", help=told)(function)


def selection_options(function: Verb) -> Verb:
    """The options that say what to forget, for `forget` and `estimate`."""
    options = [
        click.option("--ids", metavar="ID", multiple=True, help=IDS_HELP),
        click.option("--owner", "owners", multiple=True, help="Everything of an owner (the data's owner column)."),
        click.option("--shard", "shards", type=int, multiple=True, help="Everything in a shard, by number."),
        click.option(
            "--with-identical",
            is_flag=True,
            help="Also every sample whose picture has the same bytes as one that is named.",
        ),
        click.option(
            "--gpu-hour-price",
            type=click.FloatRange(min=0),
            help="What an hour of a worker costs, for the cost of the fits.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def ids_from(texts: Sequence[str]) -> tuple[str, ...]:
    """The ids of every --ids that was given, each once, in order."""
    return tuple(dict.fromkeys(name for text in texts for name in read_ids(text)))


def selection_from(
    ids: Sequence[str], owners: tuple[str, ...], shards: tuple[int, ...], with_identical: bool = False
) -> Any:
    from taft_ray.composer.selection import Selection

    return Selection(ids=ids_from(ids), owners=owners, shards=shards, with_identical=with_identical)
