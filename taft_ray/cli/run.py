"""The commands of a run: train, evaluate, status, export, report, gc; and the demo, which is all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from taft_ray.cli.answers import answers
from taft_ray.cli.lane_options import lane_options
from taft_ray.cli.released import recipient_options
from taft_ray.cli.sections import Sectioned
from taft_ray.cli.selection import owners_option
from taft_ray.cli.spec import spec_from, spec_options
from taft_ray.counting import plural
from taft_ray.data import with_split
from taft_ray.errors import UsageError
from taft_ray.progress import ProgressReport
from taft_ray.sums.options import COMPOSITIONS

if TYPE_CHECKING:
    from taft_ray.answers import Status
    from taft_ray.plans.lane_resources import LaneResources
    from taft_ray.verbs.run import Run

WATCH_S = 2.0


@click.command(cls=Sectioned)
@click.argument("run")
@spec_options
@click.option(
    "--add", metavar="URI", help="More data for a RUN that exists: its new pictures become shards of their own."
)
@click.option("--add-shards", type=int, help="How many; as many of the run's size by default.")
@click.option("--monolithic", is_flag=True, help="Also train one model over everything, for comparison.")
@click.option(
    "--fit-timeout", type=float, metavar="SECONDS",
    help="Without a sign of life, after which a fit is given up; from the fits so far by default.",
)  # fmt: skip
@click.option("--gpus", type=int, help="GPUs that an autoscaler may start; as its configuration says by default.")
@click.option("--lanes", type=int, help="Workers at once; one a GPU, or as the cores allow, by default.")
@answers
@lane_options
def train(
    run: str,
    report: ProgressReport,
    add: str | None,
    add_shards: int | None,
    monolithic: bool,
    lanes: int | None,
    fit_timeout: float | None,
    gpus: int | None,
    per_lane: LaneResources | None,
    **options: Any,
) -> Any:
    """Train every shard of RUN that has no delta yet, and compose.

    A RUN that exists needs none of the options of its spec.

    By default (--solver ridge, --compose additive) a picture is a row of features, and sums over the rows are the model. A forget
    without --mode subtracts a picture from the sums. Beside them ridge fits a tangent model per shard, which is a delta.

    With --compose gram the deltas are the model: no rows are kept. A forget without --mode retrains a shard then. With --solver
    additive there are rows and no deltas. The kind of a run is told by taft-ray status RUN.
    """
    if add is not None:
        add, options["split"] = with_split(add, options["split"]), None
    spec = spec_from(run, options, gpus)
    from taft_ray.answers import Trained
    from taft_ray.verbs.train import train as verb

    return Trained.from_json(
        verb(
            run,
            spec,
            add=add,
            gpus=gpus,
            per_lane=per_lane,
            add_shards=add_shards,
            monolithic=monolithic,
            lanes=lanes,
            fit_timeout=fit_timeout,
            report=report,
        )
    )


@click.command()
@click.argument("run")
@click.option("--data", required=True, metavar="URI")
@click.option("--split", metavar="NAME", help="Read this split of DATA: the same as DATA?split=NAME.")
@click.option("--predictions", metavar="FILE", help="Write a line per picture there: .parquet or .csv.")
@click.option("--against", metavar="RUN|FILE", help="Compare with another run, or with predictions in such a file.")
@owners_option
@answers
def evaluate(
    run: str,
    data: str,
    split: str | None,
    predictions: str | None,
    against: str | None,
    owners: tuple[str, ...],
    report: ProgressReport,
) -> Any:
    """Accuracy of RUN's composed model on DATA."""
    from taft_ray.verbs.run import Run

    return Run(run, progress=report).evaluate(
        data, split=split, predictions=predictions, against=against, owners=owners
    )


@click.command()
@click.argument("run")
@click.option("--rejected", is_flag=True, help="List the rows of the data that were rejected, each with its reason.")
@click.option(
    "--samples", is_flag=True, help="List the samples by the ids that forget takes, with class, shard and file."
)
@click.option("--output", metavar="FILE", help="With --samples: write all of them there, too; .csv or .parquet.")
@click.option(
    "--data", metavar="URI", help="With --samples: where the source lies now; ids of a column are read from there."
)
@click.option(
    "--watch",
    is_flag=True,
    help="Show it again whenever it changes, until nothing is under way; another process may work on RUN.",
)
@click.option("--metrics", metavar="FILE", help="Write RUN's numbers there, for Prometheus' textfile collector; .prom.")
@answers
def status(
    run: str, rejected: bool, samples: bool, output: str | None, data: str | None, watch: bool, metrics: str | None,
    report: ProgressReport,
) -> Any:  # fmt: skip
    """Where RUN stands."""
    from taft_ray.verbs.run import Run

    if rejected + samples + watch > 1:
        raise UsageError("--rejected, --samples and --watch show different things; give one of them")
    if (output or data) and not samples:
        raise UsageError("--output and --data are of --samples; add it, or leave them out")
    if metrics and (rejected or samples or watch):
        raise UsageError("--metrics is of status alone; leave the others out")
    if samples:
        return _samples(Run(run), output, data)
    if rejected:
        return Run(run).rejected()
    return _watched(Run(run)) if watch else Run(run).status(metrics)


def _samples(run: Run, output: str | None, data: str | None) -> Any:
    from taft_ray.verbs.table_file import check_suffix, write_table

    check_suffix("output", output)
    answer = run.samples(data)
    if output is not None:
        write_table(answer.to_pandas(), output)
    return answer


def _watched(run: Run) -> Status:
    """The status once nothing is under way. Until then it is kept up to date in a terminal, and each that differs is a text in a log."""
    with _shown_live() as show:
        while True:
            status = run.status()
            if not status.under_way():
                return status
            show(status)
            time.sleep(WATCH_S)


@contextmanager
def _shown_live() -> Iterator[Callable[[Status], None]]:
    """Shows one status after the other on stderr."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    last: list[Status] = []

    def told(status: Status) -> str:
        return f"{datetime.now(UTC):%H:%M:%S} UTC\n{status}"

    def in_log(status: Status) -> None:
        if last != [status]:
            last[:] = [status]
            click.echo(f"{told(status)}\n", err=True)

    if not console.is_terminal:
        yield in_log
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda status: live.update(Text(told(status)), refresh=True)


@click.command()
@click.argument("run")
@answers
def gc(run: str, report: ProgressReport) -> Any:
    """Remove what killed processes left in RUN and nothing refers to."""
    from taft_ray.verbs.run import Run

    return Run(run).gc()


@click.command("list")
@click.argument("uri")
@answers
def list_command(uri: str, report: ProgressReport) -> Any:
    """The runs at URI: that place itself, and the folders right under it."""
    from taft_ray.verbs.run import runs

    return runs(uri)


@click.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="It cannot be undone; without this nothing is removed.")
@answers
def destroy(run: str, yes: bool, report: ProgressReport) -> Any:
    """Remove RUN, older versions too; tombstones beside it stay.

    It cannot be undone. Without --yes nothing is removed. Tombstones are the requests to forget, kept in RUN.tombstones:
    by them a copy of RUN that is put back forgets again.
    """
    from taft_ray.verbs.run import Run

    if not yes:
        raise UsageError(_what_would_go(Run(run).status()))
    return Run(run).destroy()


def _what_would_go(known: Status) -> str:
    """A sentence on the run that would go; its open requests would never have a certificate."""
    told = [
        f"{known.run} has {plural(known.samples, 'sample')} in {plural(len(known.shards), 'shard')}, and what is removed "
        "cannot be brought back"
    ]
    told += [f"{one.told()}, and has no certificate then" for one in known.requests if not one.done]
    told += ["shards wait for a fit: another process may work on the run"] if known.pending() else []
    return f"{'. '.join(told)}. Nothing was removed; add --yes to destroy it"


@click.command("export")
@click.argument("run")
@click.option("--output", required=True, metavar="FILE", help="Ends in .pt2 (torch.export) or .onnx.")
@click.option("--compose", type=click.Choice(COMPOSITIONS), help="The run's own by default.")
@owners_option
@recipient_options
@click.option("--now", is_flag=True, help="Although the run's release gate holds the model back; the ledger says so.")
@answers
def export_command(
    run: str,
    output: str,
    compose: str | None,
    owners: tuple[str, ...],
    to: str | None,
    contact: str | None,
    until: str | None,
    no_register: bool,
    now: bool,
    report: ProgressReport,
) -> Any:
    """Write RUN's composed model as one file that runs without taft_ray.

    The export is registered in RUN's ledger; taft-ray recalls RUN says later whether the file holds what was forgotten.
    """
    from taft_ray.verbs.run import Run

    return Run(run).export(
        output, compose, owners=owners, to=to, contact=contact, until=until, now=now, register=not no_register
    )


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@answers
def report_command(runs: tuple[str, ...], report: ProgressReport) -> Any:
    """Write RUN's report, a page; several runs are put side by side.

    The numbers lie beside the page, in report.json. The comparison lies among the reports of the first run.
    """
    from taft_ray.verbs.run import Run, compare

    return Run(runs[0]).report() if len(runs) == 1 else compare(*runs)


@click.command()
@click.option("--folder", metavar="PATH", help="Where the data and the run go; runs/demo by default.")
@click.option("--model", default="taft_vit_cifar", show_default=True, help="The embedded model, or any timm name.")
@click.option(
    "--weights", metavar="URI", help="A safetensors file for --model; else the embedded or the hub's weights."
)
@answers
def demo(folder: str | None, model: str, weights: str | None, report: ProgressReport) -> Any:
    """Train, compose, forget, verify and report on digits, offline, with the embedded model."""
    from taft_ray.answers import Demonstrated
    from taft_ray.verbs.demo import demo as verb

    return Demonstrated.from_json(verb(folder, model=model, weights=weights, report=report))
