"""The options that make a RunSpec."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import chain
from typing import Any

import click
from click.core import ParameterSource

from taft_ray.additive.options import ADDITIVE, DEFAULT_BLOCKS
from taft_ray.cli.answers import Verb
from taft_ray.data import ORIENTATIONS, with_split
from taft_ray.embedded.names import EMBEDDED_NAME
from taft_ray.errors import TaftError, UsageError
from taft_ray.fitting.config import FIT_PRECISIONS, LOSSES, PRIVATE_SOLVERS, SOLVERS
from taft_ray.plans.privacy import ADJACENCIES, MEAN_SHARE, OWN, UNITS, Privacy
from taft_ray.plans.spec import DTYPES, PRECISIONS, WEIGHTINGS, RunSpec
from taft_ray.storage import MALFORMED, parse_json
from taft_ray.sums.options import COMPOSITIONS
from taft_ray.tangent.options import TRAINABLE

AUTO = "auto"  # what the machine chooses, or the run has already


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


@dataclass(frozen=True)
class _Field:
    """A field of RunSpec as an option: its default is the field's own, or ``auto`` where it is chosen by the machine."""

    name: str
    type: Any = None  # of click; None: text
    help: str = ""
    default: Any = None  # where it is not the field's
    callback: Any = None

    def option(self) -> Callable[[Verb], Verb]:
        """The option ``--name``, which shows its default where there is one."""
        default = self.default
        if default is None:
            default = RunSpec.__dataclass_fields__[self.name].default
        flag = default is False
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        return click.option(
            f"--{self.name.replace('_', '-')}",
            is_flag=flag,
            type=None if flag else self.type,
            default=shown,
            show_default=default is not None and not flag,
            callback=self.callback,
            help=self.help or None,
        )


_DATA = (
    click.option("--spec", metavar="FILE", is_eager=True, expose_value=False, callback=_defaults_from,
                 help="Defaults of the options below, from a JSON file such as a sweep's best.json; a path or URI."),
    click.option("--data", metavar="URI", help="Image folder, Parquet or WebDataset; local or remote."),
    click.option("--split", metavar="NAME", help="Read this split of DATA: the same as DATA?split=NAME."),
    click.option("--model", default=EMBEDDED_NAME, show_default=True, help="The embedded model, or any timm name."),
    click.option("--weights", metavar="URI", help="A safetensors file; else the embedded or the hub's weights."),
)  # fmt: skip
_FIELDS = (
    _Field("image_size", int, "Pixels; the model's own by default."),
    _Field("shards", int),
    _Field("assignment", help="hash, equal, stratified or grouped (by owner)."),
    _Field("classes", help="Class names with commas, or as a JSON list, in order; read from the data by default."),
    _Field("last_blocks", str, 'How many blocks are trained, or "all".', default="1"),
    _Field("trainable", click.Choice(TRAINABLE)),
    _Field("reset", help="Re-initialise what is trained before linearising (PT=F)."),
    _Field("cls_token", help="A new, trained class token at the suffix (CLS=T)."),
    _Field("seed", int),
    _Field(
        "solver", click.Choice((*SOLVERS, ADDITIVE, *PRIVATE_SOLVERS)),
        "ridge and adam fit a tangent model per shard; whether these are the model, or are kept beside it, is said by --compose. "
        "additive fits none, and keeps rows and their sums alone. "
        "dp-gd (the default of --private) and dp-additive fit privately, on tangent models and on rows.",
    ),
    _Field(
        "features", int,
        "Of additive: numbers per picture; 2,048 by default, or all that the sites have where they are fewer.",
    ),
    _Field("site_blocks", str, 'Of additive: how many last blocks are read, "all", or "default" (7/12 of them).', default=str(DEFAULT_BLOCKS)),
    _Field(
        "views", int,
        "Of additive: a row is the mean over so many views of a picture, 1 to 4: as it is, and middles of 7/8, 3/4 and 5/8 of each "
        "side. Each costs one more pass through the network, in training and in every prediction.",
    ),
    _Field("loss", click.Choice(LOSSES)),
    _Field("kappa", float, "κ of the loss rsl; of additive the factor of the logits, which changes no prediction."),
    _Field("alpha", float, "α of the loss rsl."),
    _Field("penalty", float, "λ of λ‖Δw‖²."),
    _Field("tolerance", float, "Relative residual (ridge)."),
    _Field("max_iterations", int, "Of ridge."),
    _Field("epochs", int, "Of adam."),
    _Field("batch_size", int, "Of adam."),
    _Field("learning_rate", float, "Of adam; with --private of gradient descent, 1 by default, and 10 on rows."),
    _Field(
        "milestones", str, "Of adam: the epochs at which the learning rate is divided by ten, with commas.", callback=_numbers
    ),
    _Field(
        "slices", int, "Of adam: checkpoints inside a shard, so that a retrain starts at the slice that lost a sample."
    ),
    _Field("radius", float, "Of adam: Δw stays in a ball of this radius; no bound by default."),
    _Field(
        "compose", click.Choice((*COMPOSITIONS, ADDITIVE)),
        "additive: sums over rows are the model, and deltas are kept beside them; forget subtracts by default. "
        "gram, mean and joint: deltas alone are kept, and are the model; forget retrains by default. They are composed layer by "
        "layer by Gram matrices, by their mean, or all layers jointly (of the last block alone). --private takes mean.",
    ),
    _Field("beside", click.Choice(COMPOSITIONS), "Of --compose additive: how the deltas beside it are composed."),
    _Field("epsilon", float, "ε of the Gram composition; with --private the ε of each fit."),
    _Field("joint_penalty", float, "λ of the joint composition, part of the spec."),
    _Field("weighting", click.Choice(WEIGHTINGS)),
    _Field(
        "precision", click.Choice((AUTO, *PRECISIONS)), "Of the frozen prefix; bfloat16 where the machine has it.",
        default=AUTO,
    ),
    _Field(
        "fit_precision", click.Choice(tuple(dict.fromkeys(chain(*FIT_PRECISIONS.values())))),
        "Of the fits' products: bfloat16 on CPUs and tf32 on GPUs are faster.",
    ),
    _Field("cache_dtype", click.Choice(DTYPES)),
    _Field("device", click.Choice((AUTO, "cpu", "cuda")), default=AUTO),
    _Field("threads", int, "CPU threads a worker."),
    _Field("max_rejected", float, "Fraction of rows."),
    _Field(
        "exif_orientation", click.Choice(ORIENTATIONS),
        "Turn pictures as their EXIF says, or leave them; part of the spec.",
    ),
    _Field(
        "constants_gib", float,
        "Memory for the constants of a worker's shard, part of the spec; beyond it some are computed again, batch by batch.",
    ),
)  # fmt: skip


_PRIVATE = (
    click.option("--private", is_flag=True, help="Fit with noise, so that each fit of a shard is (epsilon, delta)-private."),
    click.option("--delta", type=float, help="δ, below 1 / samples. ε is --epsilon."),
    click.option("--unit", type=click.Choice(UNITS), help="Who is hidden: a sample (default), or all samples of an owner."),
    click.option(
        "--adjacency", type=click.Choice(ADJACENCIES),
        help="zero-out (default) shows how large shards are; add-remove hides that, too, and needs --divisor.",
    ),
    click.option("--steps", type=int, help=f"Of gradient descent on the whole shard, or on batches; {Privacy.steps} by default."),
    click.option(
        "--sampling-rate", type=float, metavar="Q",
        help="Each unit is in a step's batch with this probability; every unit is in every step by default.",
    ),
    click.option("--clip", type=float, help=f"The largest norm of a unit's gradient; {Privacy.clip:g} by default."),
    click.option("--divisor", type=int, help="Public number for the mean of gradients; the shard's units by default."),
    click.option(
        "--public", metavar="URI",
        help="Of dp-additive: pictures that nobody has to protect, to whiten rows by; pink-noise (default), or none.",
    ),
    click.option(
        "--mean-share", type=float,
        help=f"Of dp-additive: the part of the privacy for the rows' mean; {MEAN_SHARE:g} by default, 0 is none.",
    ),
    click.option("--budget", type=float, help="The ε that all fits of a shard together may reach; no cap by default."),
)  # fmt: skip


def spec_options(function: Verb) -> Verb:
    """The options that make a RunSpec, for `train` and the jobs."""
    for option in reversed((*_DATA, *(field.option() for field in _FIELDS), *_PRIVATE)):
        function = option(function)
    return function


# the rows of the paper's tables differ in these, so that they are no options of `reproduce`
_VARIED = frozenset(
    [
        "split",
        "shards",
        "last_blocks",
        "features",
        "site_blocks",
        "views",
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
        "beside",
        "private",
        *OWN,
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
    if options["data"] is None:
        raise click.MissingParameter(param_hint="'--data'", param_type="option")
    names = (set(RunSpec.__dataclass_fields__) - _VARIED) & options.keys()
    return _made(None, {name: options.pop(name) for name in names})


def spec_from(run: str, options: dict[str, Any], gpus: int | None = None) -> RunSpec:
    """A RunSpec from `spec_options`; what it does not know stays in ``options``."""
    split, names = options.pop("split"), (set(RunSpec.__dataclass_fields__) | OWN | {"private"}) & options.keys()
    values = {name: options.pop(name) for name in names}
    for name in ("last_blocks", "site_blocks"):
        values[name] = _last_blocks(values[name])
    context = click.get_current_context(silent=True)
    source = context.get_parameter_source if context is not None else lambda name: None
    if values["data"] is None:
        return _gone_on_with(run, {name: values[name] for name in names if source(name) is not ParameterSource.DEFAULT})
    values["data"] = with_split(values["data"], split)
    return _made(run, values, {name for name in names if source(name) is ParameterSource.COMMANDLINE}, gpus)


def _gone_on_with(run: str, values: dict[str, Any]) -> RunSpec:
    """The spec of a run that exists, with what was typed of it; click's UsageError where there is no run."""
    from taft_ray.run.address import run_address
    from taft_ray.run.spec import is_run
    from taft_ray.storage import Store

    if not is_run(Store(run_address(run))):
        without = f"{run} is no run that could be gone on with"
        raise click.MissingParameter(without, param_hint="'--data'", param_type="option")
    from taft_ray.verbs.new_spec import continued

    if values.get("classes") is not None:
        values["classes"] = _class_names(values["classes"])
    return continued(run, {name: value for name, value in values.items() if value != AUTO})


def _made(run: str | None, values: dict[str, Any], typed: Collection[str] = (), gpus: int | None = None) -> RunSpec:
    """The spec of these fields. typed: those that a person has asked for, and that no default or file has brought."""
    from taft_ray.verbs.new_spec import spec_of

    if values["classes"] is not None:
        values["classes"] = _class_names(values["classes"])
    return spec_of(run, values, typed, gpus)


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
