"""The options that make a RunSpec."""

from __future__ import annotations

import json
from typing import Any

import click

from taft_ray.cli.answers import Verb
from taft_ray.data import ORIENTATIONS, with_split
from taft_ray.errors import TaftError, UsageError
from taft_ray.fitting.config import LOSSES
from taft_ray.plans.spec import DTYPES, PRECISIONS, WEIGHTINGS, RunSpec
from taft_ray.storage import MALFORMED, parse_json
from taft_ray.sums.options import COMPOSITIONS
from taft_ray.tangent.options import TRAINABLE


def _defaults_from(context: click.Context, option: click.Parameter, where: str | None) -> None:
    """Take the fields of a spec file as defaults: what is typed comes before them."""
    from taft_ray.data import access
    from taft_ray.plans.spec_file import parse_spec_file

    if where is None:
        return
    try:
        with access.open_file(where) as file:
            values = parse_spec_file(file.read(), where)
    except (OSError, TaftError) as error:
        raise click.BadParameter(str(error), context, option) from error
    # an option's own form: text where the spec has a list
    texts = {name: ",".join(map(str, value)) for name, value in values.items() if isinstance(value, tuple)}
    if "classes" in texts:
        texts["classes"] = json.dumps(values["classes"])  # a class's name may hold a comma
    context.default_map = {**values, **texts}


def _numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected whole numbers with commas", context, option) from None


def spec_options(function: Verb) -> Verb:
    """The options that make a RunSpec, for `train` and the jobs."""
    options = [
        click.option(
            "--spec",
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_defaults_from,
            help="Defaults of the options below, from a JSON file such as a sweep's best.json; a path or URI.",
        ),
        click.option(
            "--data", required=True, metavar="URI", help="Image folder, Parquet or WebDataset; local or remote."
        ),
        click.option("--split", metavar="NAME", help="Read this split of DATA: the same as DATA?split=NAME."),
        click.option(
            "--model", default="taft_vit_cifar", show_default=True, help="The embedded model, or any timm name."
        ),
        click.option("--weights", metavar="URI", help="A safetensors file; else the embedded or the hub's weights."),
        click.option("--image-size", type=int, help="Pixels; the model's own by default."),
        click.option("--shards", type=int, default=10, show_default=True),
        click.option(
            "--assignment", default="hash", show_default=True, help="hash, equal, stratified or grouped (by owner)."
        ),
        click.option(
            "--classes",
            help="Class names with commas, or as a JSON list, in order; read from the data by default.",
        ),
        click.option("--last-blocks", default="1", show_default=True, help='How many blocks are trained, or "all".'),
        click.option("--trainable", type=click.Choice(TRAINABLE), default="full", show_default=True),
        click.option("--reset", is_flag=True, help="Re-initialise what is trained before linearising (PT=F)."),
        click.option("--cls-token", is_flag=True, help="A new, trained class token at the suffix (CLS=T)."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--solver", type=click.Choice(("ridge", "adam")), default="ridge", show_default=True),
        click.option("--loss", type=click.Choice(LOSSES), default="rsl", show_default=True),
        click.option("--kappa", type=float, default=15.0, show_default=True),
        click.option("--alpha", type=float, default=1.0, show_default=True),
        click.option("--penalty", type=float, default=0.01, show_default=True, help="λ of λ‖Δw‖²."),
        click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Relative residual (ridge)."),
        click.option("--max-iterations", type=int, default=300, show_default=True, help="Of ridge."),
        click.option("--epochs", type=int, default=30, show_default=True, help="Of adam."),
        click.option("--batch-size", type=int, default=32, show_default=True, help="Of adam."),
        click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Of adam."),
        click.option(
            "--milestones",
            default="15,25",
            show_default=True,
            callback=_numbers,
            help="Of adam: the epochs at which the learning rate is divided by ten, with commas.",
        ),
        click.option(
            "--slices",
            type=int,
            default=1,
            show_default=True,
            help="Of adam: checkpoints inside a shard, so that a retrain starts at the slice that lost a sample.",
        ),
        click.option("--radius", type=float, help="Of adam: Δw stays in a ball of this radius; no bound by default."),
        click.option(
            "--compose",
            type=click.Choice(COMPOSITIONS),
            default="gram",
            show_default=True,
            help="The mean, layer by layer by Gram matrices, or all layers jointly (of the last block alone).",
        ),
        click.option("--epsilon", type=float, default=0.02, show_default=True, help="Of the Gram composition."),
        click.option(
            "--joint-penalty",
            type=float,
            default=0.01,
            show_default=True,
            help="λ of the joint composition, part of the spec.",
        ),
        click.option("--weighting", type=click.Choice(WEIGHTINGS), default="uniform", show_default=True),
        click.option(
            "--precision",
            type=click.Choice(("auto", *PRECISIONS)),
            default="auto",
            show_default=True,
            help="Of the frozen prefix; bfloat16 where the machine has it.",
        ),
        click.option("--cache-dtype", type=click.Choice(DTYPES), default="float16", show_default=True),
        click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True),
        click.option("--threads", type=int, default=1, show_default=True, help="CPU threads a worker."),
        click.option("--max-rejected", type=float, default=0.01, show_default=True, help="Fraction of rows."),
        click.option(
            "--exif-orientation",
            type=click.Choice(ORIENTATIONS),
            default="ignore",
            show_default=True,
            help="Turn pictures as their EXIF says, or leave them; part of the spec.",
        ),
        click.option(
            "--constants-gib",
            type=float,
            default=4.0,
            show_default=True,
            help="Memory for the constants of a worker's shard, part of the spec; beyond it some are computed again, batch by batch.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


# what the rows of the paper's tables differ in, and so no option of `reproduce`
_VARIED = frozenset(
    [
        "split",
        "shards",
        "last_blocks",
        "trainable",
        "reset",
        "cls_token",
        "seed",
        "solver",
        "loss",
        "kappa",
        "learning_rate",
        "slices",
        "radius",
        "compose",
    ]
)


def shared_spec_options(function: Verb) -> Verb:
    """The options of a RunSpec that all rows of a table have in common, for `reproduce`."""
    own = len(getattr(function, "__click_params__", ()))
    options: Any = spec_options(function)
    added = [option for option in options.__click_params__[own:] if option.name not in _VARIED]
    options.__click_params__[own:] = added
    return options


def shared_spec_from(options: dict[str, Any]) -> RunSpec:
    """A RunSpec from `shared_spec_options`; what it does not know stays in ``options``."""
    names = (set(RunSpec.__dataclass_fields__) - _VARIED) & options.keys()
    return _made(None, {name: options.pop(name) for name in names})


def spec_from(run: str, options: dict[str, Any]) -> RunSpec:
    """A RunSpec from `spec_options`; what it does not know stays in ``options``."""
    options["data"] = with_split(options["data"], options.pop("split"))
    names = set(RunSpec.__dataclass_fields__) & options.keys()
    values = {name: options.pop(name) for name in names}
    values["last_blocks"] = _last_blocks(values["last_blocks"])
    return _made(run, values)


def _made(run: str | None, values: dict[str, Any]) -> RunSpec:
    from taft_ray.verbs.new_spec import spec_of

    if values["classes"] is not None:
        values["classes"] = _class_names(values["classes"])
    return spec_of(run, values)


def _class_names(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        return tuple(name.strip() for name in text.split(","))
    try:
        names = parse_json(text)
    except MALFORMED as error:
        raise UsageError(f"--classes {text!r} is not JSON: {error}; expected a list of names") from error
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"--classes {text!r}: expected a JSON list of strings")
    return tuple(names)


def _last_blocks(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text
