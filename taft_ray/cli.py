"""The command line: parse, call one verb, print. `--json` puts one JSON object on stdout and everything else on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from taft_ray import __version__
from taft_ray.errors import TaftError, UsageError
from taft_ray.plans.forget import MODES
from taft_ray.plans.spec import COMPOSITIONS, DTYPES, PRECISIONS, WEIGHTINGS, RunSpec, fastest_precision
from taft_ray.privacy import SigningKey, read_public_key, read_signing_key
from taft_ray.progress import ProgressReport
from taft_ray.tangent.loss import LOSSES
from taft_ray.tangent.model import TRAINABLE

Verb = Callable[..., Any]


def _answers(function: Verb) -> Verb:
    """Adds --json and --debug; turns the package's errors into one line and an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def run(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        from taft_ray.orchestration import session

        try:
            # Ray prints warnings of its own on stdout, which belongs to the answer
            with contextlib.redirect_stdout(sys.stderr), ProgressReport() as report:
                answer = function(*args, report=report, **kwargs)
        except TaftError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"taft-ray: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("taft-ray: interrupted; what was committed is kept, run the same command again", err=True)
            sys.exit(1)
        except Exception as error:
            if debug:
                raise
            click.echo(f"taft-ray: {type(error).__name__}: {error} (--debug shows where)", err=True)
            sys.exit(1)
        finally:
            with contextlib.redirect_stdout(sys.stderr):
                session.disconnect()
        if as_json:
            click.echo(json.dumps(answer))
        else:
            _show(_without_the_small_print(answer))
        if isinstance(answer, dict) and answer.get("ok") is False:
            sys.exit(1)

    return run


def _without_the_small_print(answer: Any) -> Any:
    """A certificate for a person: what became of the request, and where the whole of it is."""
    if not isinstance(answer, dict) or "rests_on" not in answer:
        return answer
    short = (
        "request",
        "mode",
        "samples",
        "shards",
        "shards_after",
        "composed_after",
        "seconds",
        "cost",
        "does_not_cover",
    )
    where = f"{answer['run']['address']}/certificates/{answer['request']}-….json"
    return {**{name: answer[name] for name in short}, "certificate": f"{where} (--json prints it; verify checks it)"}


def _show(answer: Any, indent: str = "") -> None:
    """An answer for a person: short values a line each, lists counted."""
    if not isinstance(answer, dict):
        click.echo(f"{indent}{answer}")
        return
    for name, value in answer.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 8:
            click.echo(f"{indent}{name}: {len(value)} entries (--json shows them)")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            click.echo(f"{indent}{name}:")
            for item in value:
                click.echo(f"{indent}  {json.dumps(item)}")
        else:
            click.echo(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")


def _ids(text: str) -> list[str]:
    """IDS: a comma-separated list, or @file with one id a line."""
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"ids file {path} cannot be read: {error}; expected UTF-8 text, one id a line") from error
        ids = [line.strip() for line in lines if line.strip()]
    else:
        ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise UsageError(f"no ids in {text!r}; expected a comma-separated list, or @file with one id a line")
    return ids


def _last_blocks(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def spec_options(function: Verb) -> Verb:
    """The options that make a RunSpec, for `train` and the jobs."""
    options = [
        click.option(
            "--data", required=True, metavar="URI", help="Image folder, Parquet or WebDataset; local or remote."
        ),
        click.option(
            "--model", default="taft_vit_cifar", show_default=True, help="The embedded model, or any timm name."
        ),
        click.option("--weights", metavar="URI", help="A safetensors file; else the embedded or the hub's weights."),
        click.option("--image-size", type=int, help="Pixels; the model's own by default."),
        click.option("--shards", type=int, default=10, show_default=True),
        click.option(
            "--assignment", default="hash", show_default=True, help="hash, equal, stratified or grouped (by owner)."
        ),
        click.option("--classes", help="Comma-separated class names, in order; read from the data by default."),
        click.option("--last-blocks", default="1", show_default=True, help='How many blocks are trained, or "all".'),
        click.option("--trainable", type=click.Choice(TRAINABLE), default="full", show_default=True),
        click.option("--reset", is_flag=True, help="Re-initialise what is trained before linearising (PT=F)."),
        click.option("--cls-token", is_flag=True, help="A new, trained class token at the suffix (CLS=T)."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--solver", type=click.Choice(("ridge", "adam")), default="ridge", show_default=True),
        click.option("--loss", type=click.Choice(LOSSES), default="rsl", show_default=True),
        click.option("--kappa", type=float, default=15.0, show_default=True),
        click.option("--alpha", type=float, default=1.0, show_default=True),
        click.option("--penalty", type=float, default=0.001, show_default=True, help="λ of λ‖Δw‖²."),
        click.option("--tolerance", type=float, default=1e-2, show_default=True, help="Relative residual (ridge)."),
        click.option("--max-iterations", type=int, default=300, show_default=True, help="Of ridge."),
        click.option("--epochs", type=int, default=30, show_default=True, help="Of adam."),
        click.option("--batch-size", type=int, default=32, show_default=True, help="Of adam."),
        click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Of adam."),
        click.option(
            "--slices",
            type=int,
            default=1,
            show_default=True,
            help="Of adam: checkpoints inside a shard, so that a retrain starts at the slice that lost a sample.",
        ),
        click.option("--compose", type=click.Choice(COMPOSITIONS), default="gram", show_default=True),
        click.option("--epsilon", type=float, default=0.02, show_default=True, help="Of the Gram composition."),
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
    ]
    for option in reversed(options):
        function = option(function)
    return function


def spec_from(run: str, options: dict[str, Any]) -> RunSpec:
    """A RunSpec from `spec_options`; what it does not know stays in ``options``.

    "auto" is what RUN has where it exists already: it may be continued on another kind of machine.
    """
    import torch

    from taft_ray.orchestration.run import run_address
    from taft_ray.storage import Store, read_spec

    names = set(RunSpec.__dataclass_fields__) & options.keys()
    values = {name: options.pop(name) for name in names}
    values["last_blocks"] = _last_blocks(values["last_blocks"])
    if values["classes"] is not None:
        values["classes"] = tuple(name.strip() for name in values["classes"].split(","))
    pinned = {}
    if "auto" in (values["device"], values["precision"]):
        pinned = read_spec(Store(run_address(run))) or {}
    if values["device"] == "auto":
        values["device"] = pinned.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if values["precision"] == "auto":
        values["precision"] = pinned.get("precision") or fastest_precision(values["device"])
    return RunSpec(**values)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Fine-tune linearised vision transformers on shards that can be forgotten exactly."""


@main.command()
@click.argument("run")
@spec_options
@click.option("--monolithic", is_flag=True, help="Also train one model over everything, for comparison.")
@click.option("--lanes", type=int, help="Workers at once; one a GPU, or as the cores allow, by default.")
@_answers
def train(run: str, report: ProgressReport, monolithic: bool, lanes: int | None, **options: Any) -> Any:
    """Train every shard of RUN that has no delta yet, and compose."""
    from taft_ray.orchestration import run as verbs

    return verbs.train(run, spec_from(run, options), monolithic=monolithic, lanes=lanes, report=report)


@main.command()
@click.argument("run")
@click.option("--data", required=True, metavar="URI")
@_answers
def evaluate(run: str, data: str, report: ProgressReport) -> Any:
    """Accuracy of RUN's composed model on DATA."""
    from taft_ray.orchestration import run as verbs

    return verbs.evaluate(run, data, report=report)


def selection_options(function: Verb) -> Verb:
    """The options that say what to forget, for `forget` and `estimate`."""
    options = [
        click.option("--ids", metavar="IDS", help="Comma-separated sample ids, or @file with one id a line."),
        click.option("--owner", "owners", multiple=True, help="Everything of an owner (the data's owner column)."),
        click.option("--shard", "shards", type=int, multiple=True, help="Everything in a shard, by number."),
        click.option(
            "--gpu-hour-price",
            type=click.FloatRange(min=0),
            help="What an hour of a worker costs, for the cost of the fits.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _selection(ids: str | None, owners: tuple[str, ...], shards: tuple[int, ...]) -> Any:
    from taft_ray.orchestration.selection import Selection

    return Selection(ids=tuple(dict.fromkeys(_ids(ids))) if ids is not None else (), owners=owners, shards=shards)


def _deadline(text: str | None) -> float | None:
    """A deadline as unix seconds: a date or time (ISO 8601), or how long from now: 30d, 12h, 90m, 60s."""
    if text is None:
        return None
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    try:
        if text[-1:] in units:
            when = time.time() + float(text[:-1]) * units[text[-1]]
            datetime.fromtimestamp(when)  # refuses nan, inf and what no calendar has
            return when
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--deadline {text!r}: expected 30d, 12h, 90m, 60s, or a time such as 2027-01-31T12:00"
        ) from error


@main.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), default="retrain", show_default=True)
@_answers
def estimate(
    run: str,
    ids: str | None,
    owners: tuple[str, ...],
    shards: tuple[int, ...],
    gpu_hour_price: float | None,
    mode: str,
    report: ProgressReport,
) -> Any:
    """What a forget would touch and take; nothing happens."""
    from taft_ray.orchestration import requests

    return requests.estimate(run, _selection(ids, owners, shards), mode, gpu_hour_price=gpu_hour_price)


@main.command()
@click.argument("run")
@selection_options
@click.option("--mode", type=click.Choice(MODES), help="drop, retrain or resolve.")
@click.option("--dry-run", is_flag=True, help="Only estimate.")
@click.option(
    "--deadline",
    metavar="WHEN",
    help="Gather with other requests and run in time for this: 30d, 12h, or an ISO time; then --due carries it out.",
)
@click.option("--due", is_flag=True, help="Carry out the requests whose time has come; nothing else is given.")
@click.option("--sign", metavar="FILE", help="Sign the certificate with this Ed25519 private key (PEM).")
@_answers
def forget(
    run: str,
    ids: str | None,
    owners: tuple[str, ...],
    shards: tuple[int, ...],
    gpu_hour_price: float | None,
    mode: str | None,
    dry_run: bool,
    deadline: str | None,
    due: bool,
    sign: str | None,
    report: ProgressReport,
) -> Any:
    """Forget samples of RUN; answers with the certificate."""
    from taft_ray.orchestration import requests

    key = None if sign is None else read_signing_key(sign)  # a wrong file must not be noticed after a forget
    if due:
        if ids or owners or shards or mode or deadline or dry_run:
            raise UsageError("--due carries out what was asked before; leave the other options out")
        answer = requests.forget_due(run, gpu_hour_price=gpu_hour_price, report=report)
        return {**answer, "certificates": [_signed(run, certificate, key) for certificate in answer["certificates"]]}
    if mode is None:
        raise UsageError(f"how to forget? set --mode to one of {', '.join(MODES)}")
    chosen, when = _selection(ids, owners, shards), _deadline(deadline)
    if dry_run:
        return requests.estimate(run, chosen, mode, gpu_hour_price=gpu_hour_price)
    answer = requests.forget(run, chosen, mode=mode, deadline=when, gpu_hour_price=gpu_hour_price, report=report)
    return _signed(run, answer, key)


def _signed(run: str, certificate: dict[str, Any], key: SigningKey | None) -> dict[str, Any]:
    """The certificate as it is, or with its signature; a request that still waits has none."""
    from taft_ray.orchestration.run import run_address
    from taft_ray.orchestration.signature import sign_certificate

    if key is None or certificate.get("waiting"):
        return certificate
    return {**certificate, **sign_certificate(run_address(run), certificate["request"], key)}


@main.command()
@click.argument("run")
@click.option("--request", required=True, help="The forget whose certificate is signed; taft-ray status lists them.")
@click.option("--key", required=True, metavar="FILE", help="An Ed25519 private key (PEM).")
@_answers
def sign(run: str, request: str, key: str, report: ProgressReport) -> Any:
    """Sign a certificate of RUN; answers with the certificate and its signature."""
    return _signed(run, {"request": request}, read_signing_key(key))


@main.command()
@click.argument("run")
@_answers
def status(run: str, report: ProgressReport) -> Any:
    """Where RUN stands."""
    from taft_ray.orchestration import run as verbs

    return verbs.status(run)


@main.command()
@click.argument("target")
@click.option("--retrain", is_flag=True, help="Of a run: also train again every shard that a forget trained again.")
@click.option("--head", metavar="DIGEST", help="Of a run: a ledger entry that must be there, from an earlier verify.")
@click.option("--public-key", metavar="FILE", help="Of a certificate: it must be signed by this Ed25519 key (PEM).")
@click.option("--run", metavar="RUN", help="Of a certificate: the run to compare it with; the one it names by default.")
@_answers
def verify(
    target: str, retrain: bool, head: str | None, public_key: str | None, run: str | None, report: ProgressReport
) -> Any:
    """Check TARGET, a run or a certificate's JSON, from storage alone; exits 1 when something is wrong."""
    from taft_ray.orchestration import verify as of_run
    from taft_ray.orchestration import verify_certificate as of_certificate
    from taft_ray.orchestration.run import run_address

    if of_certificate.is_certificate(target):
        if retrain or head:
            raise UsageError(f"{target} is a certificate; --retrain and --head are of a run")
        signer = None if public_key is None else read_public_key(public_key)
        return of_certificate.verify_certificate(target, public_key=signer, run=run and run_address(run))
    if public_key or run:
        raise UsageError(f"{target} is not a certificate's file; --public-key and --run are of a certificate")
    return of_run.verify(run_address(target), head=head, retrain=retrain, report=report)


@main.command()
@click.argument("run")
@click.option(
    "--data", required=True, metavar="URI", help="The forgotten samples, from their owner: RUN has them no more."
)
@click.option("--never-seen", required=True, metavar="URI", help="Data of the same kind that RUN never saw.")
@click.option("--ids", metavar="IDS", help="Forgotten samples of DATA; all of them by default.")
@click.option("--level", type=float, default=0.01, show_default=True, help="How likely a false alarm may be.")
@_answers
def audit(run: str, data: str, never_seen: str, ids: str | None, level: float, report: ProgressReport) -> Any:
    """Membership-inference attack on what RUN has forgotten; exits 1 when RUN remembers."""
    from taft_ray.orchestration.audit import audit as attack

    return attack(run, data, never_seen, ids=_ids(ids) if ids is not None else None, level=level, report=report)


@main.command("destroy-key")
@click.argument("run")
@click.option("--yes", is_flag=True, help="It cannot be undone.")
@_answers
def destroy_key(run: str, yes: bool, report: ProgressReport) -> Any:
    """Destroy RUN's key of the id hashes: nobody can tell any more whom a tombstone names, nor read data in."""
    from taft_ray.orchestration.destroy_key import destroy_key as destroy
    from taft_ray.orchestration.run import run_address

    if not yes:
        raise UsageError(
            "destroying the key cannot be undone, and nothing can be read into the run afterwards; add --yes"
        )
    return destroy(run_address(run))


@main.command()
@click.argument("run")
@_answers
def gc(run: str, report: ProgressReport) -> Any:
    """Remove what killed processes left in RUN and nothing refers to."""
    from taft_ray.orchestration.garbage import gc as collect
    from taft_ray.orchestration.run import run_address

    return collect(run_address(run))


@main.command("report")
@click.argument("run")
@_answers
def report_command(run: str, report: ProgressReport) -> Any:
    """Write RUN's report: one HTML page, and report.json."""
    from taft_ray.orchestration.reporting import report as write
    from taft_ray.orchestration.run import run_address

    return write(run_address(run))


@main.command()
@click.option("--folder", metavar="PATH", help="Where the data and the run go; a temporary folder by default.")
@click.option("--model", default="taft_vit_cifar", show_default=True, help="The embedded model, or any timm name.")
@click.option(
    "--weights", metavar="URI", help="A safetensors file for --model; else the embedded or the hub's weights."
)
@_answers
def demo(folder: str | None, model: str, weights: str | None, report: ProgressReport) -> Any:
    """Train, compose, forget, verify and report on digits, offline, with the embedded model."""
    from taft_ray.orchestration.demo import demo as show

    return show(folder, model=model, weights=weights, report=report)


if __name__ == "__main__":
    main()
