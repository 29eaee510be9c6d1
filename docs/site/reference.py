"""Pages of the reference that are made from the code: commands, JSON Schemas, facts of the ledger, metrics, errors.

Each function gives the Markdown of one page. Nothing here starts ray or loads torch.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from taft_ray import answers, errors
from taft_ray.cli import main
from taft_ray.cli.commands import EXAMPLES, GROUPS
from taft_ray.cli.sections import EVERY, SECTIONS, Sectioned
from taft_ray.plans import gauges
from taft_ray.plans.facts import KINDS

SCHEMAS = "taft_ray/answers/schemas"


def text(words: str) -> str:
    """Words as Markdown that shows them as they are; `code` in backticks stays code."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(words.split()))
    plain = [re.sub(r"([\\*_\[\]|])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "".join(one for pair in zip(plain, [*parts[1::2], ""], strict=True) for one in pair)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraphs(words: str | None) -> str:
    """A docstring, paragraph by paragraph; indented blocks stay code."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(words or ""))
    return "\n\n".join(block if block.startswith("    ") else text(block) for block in blocks)


def code(words: str) -> str:
    return f"`{words}`"


# --- commands


def commands() -> str:
    """Every command with its usage, its options and an example, from the parsers."""
    page = [
        "# Commands",
        "Every command takes `--json` (one JSON object on stdout, everything else on stderr) and `--debug` (tracebacks, "
        "and the log). It exits 0 when done, 1 when it failed and 2 on wrong usage; exceptions are named below. Every "
        "command may be repeated: what is committed is not done twice.",
        "RUN and data are local paths or URIs such as `s3://bucket/run`. The [jobs](../how-to/jobs.md) take the same "
        "options, and [`taft_ray.Run`](python.md#taft_ray.Run) has a method per command.",
    ]
    for title, names in GROUPS.items():
        page += [f"## {title}", *(command(name) for name in names)]
    return "\n\n".join(page) + "\n"


def command(name: str) -> str:
    one = main.commands[name]
    context = click.Context(one, info_name=f"taft-ray {name}", max_content_width=400, terminal_width=400)
    usage = one.get_usage(context).removeprefix("Usage: ")
    kinds = " or ".join(f"[{kind.__name__}](schemas.md#{kind.__name__.lower()})" for kind in answers.OF_COMMANDS[name])
    return "\n\n".join(
        [
            f"### {name}",
            f"```\n{usage}\n```",
            paragraphs(one.help),
            *options(one, context),
            f"Example: `taft-ray {EXAMPLES[name]}`",
            f"Its JSON is {kinds}.",
        ]
    )


def options(one: click.Command, context: click.Context) -> Iterator[str]:
    """A table of the options, or several where the command's help has sections."""
    there = [option for option in one.get_params(context) if isinstance(option, click.Option)]
    shared = {"--json", "--debug", "--help"}
    there = [option for option in there if not shared & {*option.opts} and not option.hidden]
    special = frozenset().union(*SECTIONS.values()) if isinstance(one, Sectioned) else frozenset()
    groups = {EVERY: {str(option.name) for option in there} - special, **(SECTIONS if special else {})}
    for title, names in groups.items():
        records = [option.get_help_record(context) for option in there if option.name in names]
        rows = [(code(record[0]), text(record[1])) for record in records if record is not None]
        if rows:
            if special:
                yield f"**{text(title)}**"
            yield table(["option", "meaning"], rows)


# --- schemas


def schemas(read: Callable[[str], str], names: Sequence[str]) -> str:
    """The fields of every answer. read: gives the text of a schema's file."""
    of: dict[str, list[str]] = {}
    for one, kinds in answers.OF_COMMANDS.items():
        for kind in kinds:
            of.setdefault(kind.__name__, []).append(one)
    page = ["# JSON Schemas of the answers", "`--json` prints an object of one of these kinds. `to_json()` of an answer in "
            "Python gives the same. Each schema is a file of the package, `taft_ray/answers/schemas/NAME.json`."]  # fmt: skip
    for name in names:
        schema = json.loads(read(f"{SCHEMAS}/{name}.json"))
        by = " and ".join(f"[`{one}`](cli.md#{one})" for one in of.get(name, ()))
        page += [f"## {name}", f"The answer of {by}. [The schema](../repository/{SCHEMAS}/{name}.json)."]
        page += [described(schema, ())]
        for part, inner in schema.get("$defs", {}).items():
            page += [f"**{part}**", described(inner, ())]
    return "\n\n".join(page) + "\n"


def described(schema: Mapping[str, Any], without: Sequence[str]) -> str:
    rows = [
        (code(field), code(type_of(inner)), "yes" if field in schema.get("required", ()) else "")
        for field, inner in schema.get("properties", {}).items()
        if field not in without
    ]
    return "\n\n".join([paragraphs(schema.get("description")), table(["field", "type", "always there"], rows)])


def type_of(schema: Mapping[str, Any]) -> str:
    """A schema in few words, such as ``array of Step`` or ``string or null``."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(type_of, schema["anyOf"])))
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return f"array of {type_of(schema['items'])}"
    return str(kind)


# --- facts, metrics, errors


def ledger() -> str:
    """The kinds of ledger entries, from their types."""
    page = [
        "# Facts of the ledger",
        "The ledger is `ledger/*.json` of a run: an append-only chain. Each entry has a `number`, a `time`, a `kind`, a "
        "`body`, and the digest of the entry before. These are the kinds and the fields of their bodies. A field that is "
        "marked may be left out: entries of earlier versions lack it.",
    ]
    for kind, fact in KINDS.items():
        rows = [
            (code(field.name), code(str(field.type)), "" if required(field) else "may be left out")
            for field in dataclasses.fields(fact)
        ]
        page += [f"## {kind}", paragraphs(fact.__doc__), table(["field", "type", ""], rows) if rows else ""]
    return "\n\n".join(filter(None, page)) + "\n"


def required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def metrics() -> str:
    """The numbers of a run for monitoring systems."""
    named = {
        "Gauges of a run": gauges.GAUGES,
        "Counters of the processes at work": {f"{name}_total": words for name, words in gauges.FITS.items()},
        "Gauges that `verify --metrics` writes": gauges.VERIFIED,
    }
    page = [
        "# Metrics",
        "Every metric has the label `run`: the run's address. `ray_taft_shards` and `ray_taft_requests` also have `state`. "
        "Times are unix seconds, and 0 where there is none. [Monitoring](../how-to/monitoring.md) says how to collect them.",
    ]
    for title, several in named.items():
        rows = [(code(gauges.PREFIX + name), text(words)) for name, words in several.items()]
        page += [f"## {title}", table(["metric", "meaning"], rows)]
    return "\n\n".join(page) + "\n"


def raised() -> str:
    """The classes of errors: what each means and what to do."""
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.TaftError)]
    rows = [
        (code(kind.__name__), code(kind.__bases__[0].__name__), str(kind.exit_code), text(kind.__doc__ or ""))
        for kind in kinds
    ]
    return "\n\n".join(
        [
            "# Errors",
            "Every error that is raised on purpose is a class of `taft_ray.errors`: one for each reaction of the caller. The "
            "message of each says what was expected, what was got, and the way out. Commands print it on stderr and exit with "
            "the code of its class.",
            table(["class", "is a", "exit code", "meaning, and what to do"], rows),
            "Any other exception is a fault of the program. `--debug` shows where it was raised.",
        ]
    ) + "\n"  # fmt: skip
