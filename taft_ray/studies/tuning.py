"""Trials through Ray Tune: who runs when, who is stopped early, and what is heard of them.

Tune's own state lies in a temporary folder and is not kept: nothing from storage is unpickled. A sweep can go on where it was
because each trial's result is handed over when it ends.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from taft_ray.plans.lane_resources import LaneResources
from taft_ray.plans.space import Trial
from taft_ray.plans.sweep import FAILED, FINISHED, STOPPED
from taft_ray.progress import Report
from taft_ray.studies.mlflow import check_mlflow
from taft_ray.studies.trial import EFFORT, Bench, trial_loop

GRACE = 20.0  # effort below which nobody is stopped: a fifth of the shards, or of the epochs
KEEP_ONE_OF = 3  # at each rung of successive halving
_MEDIAN_OF = 3  # others at least, before the median stops anybody
_ATTEMPTS = 1  # more, for a trial whose worker is lost
_LONGEST = 500  # characters of an error that nobody foresaw

Finish = Callable[[dict[str, Any]], None]


class Heard(Callback):
    """Keeps each trial's curve, and hands its result over when it ends."""

    def __init__(self, finish: Finish, report: Report, total: int) -> None:
        self._finish, self._report, self._total = finish, report, total
        self._curves: dict[int, list[list[float]]] = {}
        self._ended = 0
        report("trials", 0, total)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a pickle of its callbacks, which nobody reads, and a progress bar cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._curves[_number(trial)] = []  # a trial that begins again after its worker was lost, too

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "error" not in result:
            self._curves.setdefault(_number(trial), []).append([result["effort"], result["accuracy"]])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result
        if "error" in last:
            self._end(trial, {"status": FAILED, "error": last["error"]})
            return
        measured = ("effort", "accuracy", "correct", "seconds", "prepare_seconds", "tokens_mapped")
        status = FINISHED if last["effort"] >= EFFORT else STOPPED
        self._end(trial, {"status": status, **{name: last[name] for name in measured}})

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        lines = (
            str(trial.get_error() or "it is not known why").strip().splitlines()
        )  # a traceback: its last line says what
        self._end(trial, {"status": FAILED, "error": lines[-1][:_LONGEST]})

    def _end(self, trial: TuneTrial, result: dict[str, Any]) -> None:
        curve = self._curves.get(_number(trial), [])
        self._finish({**trial.config["trial"], **result, "curve": curve})
        self._ended += 1
        self._report("trials", self._ended, self._total)


def _needs(options: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """A trial's share of the cluster, from Ray's options of a worker."""
    kind, labels = options.get("accelerator_type"), options.get("label_selector")
    bundle = {
        "CPU": options["num_cpus"],
        "GPU": options["num_gpus"],
        **options.get("resources", {}),
        **({f"accelerator_type:{kind}": 0.001} if kind else {}),
    }
    where: dict[str, Any] = {"bundle_label_selector": [labels]} if labels else {}
    return tune.PlacementGroupFactory([bundle], **where)


def run_trials(
    bench: Bench,
    trials: Sequence[Trial],
    per_lane: LaneResources,
    *,
    scheduler: str,
    finish: Finish,
    report: Report,
    mlflow: str | None = None,
) -> None:
    """Run the trials, as many at once as the cluster has cores (or GPUs) for; ``finish`` has the result of each.

    A result: {"number", "settings", "status", "curve": [[effort, accuracy]], and measures or "error"}.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables are not shown
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # an interrupt ends the sweep, as it does every other command
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # trials with one linearisation follow each other, so that a worker prepares each linearisation once
    ordered = sorted(trials, key=lambda trial: (_linearised(trial), trial.number))
    grid = [{"number": trial.number, "settings": trial.settings} for trial in ordered]
    callbacks: list[Callback] = [Heard(finish, report, len(trials))]
    if mlflow is not None:
        callbacks.append(_mlflow_callback(mlflow, f"taft_ray sweep {bench.name}"))
    needs = _needs(per_lane.for_worker(bench.spec))
    with tempfile.TemporaryDirectory(prefix="taft-ray-sweep-") as scratch:
        Tuner(
            tune.with_resources(tune.with_parameters(trial_loop, bench=bench), needs),
            param_space={"trial": tune.grid_search(grid)},
            tune_config=TuneConfig(
                metric="accuracy",
                mode="max",
                scheduler=scheduler_for(scheduler),
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                callbacks=callbacks,
                failure_config=FailureConfig(max_failures=_ATTEMPTS),
            ),
        ).fit()


def scheduler_for(name: str) -> TrialScheduler:
    """The scheduler that `Sweep.scheduler` names; its time is the trial's effort, so that solvers and objectives can be compared."""
    if name == "asha":
        return ASHAScheduler(time_attr="effort", max_t=EFFORT, grace_period=GRACE, reduction_factor=KEEP_ONE_OF)  # type: ignore[arg-type]  # effort is a float
    if name == "median":
        # no trial is paused while too few others are known: it would have to start again
        return MedianStoppingRule(
            time_attr="effort",
            grace_period=GRACE,
            min_samples_required=_MEDIAN_OF,
            min_time_slice=float("inf"),  # type: ignore[arg-type]
        )
    return FIFOScheduler()


def _mlflow_callback(uri: str, experiment: str) -> Callback:
    """Ray's callback, which logs each trial's settings and measures."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    check_mlflow()
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment)


def _linearised(trial: Trial) -> str:
    names = ("last_blocks", "trainable", "reset", "cls_token")
    return repr([(name, trial.settings.get(name)) for name in names])


def _number(trial: TuneTrial) -> int:
    return trial.config["trial"]["number"]


def _name(trial: TuneTrial) -> str:
    return f"trial-{_number(trial)}"
