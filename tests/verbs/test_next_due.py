"""`forget --due` with nothing due tells what waits, and which request begins first."""

from pathlib import Path

from command import here
from released import trained_toy
from toy_run import EVERYONE

import taft_ray as tr


def test_what_waits_is_told_by_when_it_begins(tmp_path: Path) -> None:
    run = trained_toy(tmp_path / "run")
    assert here("forget", run, "--due", "--json").json == {"certificates": []}
    late, soon = (
        here("forget", run, "--ids", EVERYONE[n], "--mode", "retrain", "--deadline", when, "--json").json
        for n, when in ((0, "40d"), (4, "20d"))
    )
    told = here("forget", run, "--due", "--json").json
    expected = [{"request": one["request"], "samples": 1, "runs_at": one["runs_at"], "deadline": one["deadline"]}
                for one in (soon, late)]  # fmt: skip
    assert told == {"certificates": [], "waiting": expected}
    shown = here("forget", run, "--due")
    assert shown.code == 0
    assert f"2 requests wait. The next one: 1 sample in request {soon['request']}, which begins" in shown.out


def test_what_goes_along_with_an_earlier_request_begins_with_it(tmp_path: Path) -> None:
    """Both touch one shard, which is fitted once."""
    run = tr.Run(trained_toy(tmp_path / "run"))
    for n, when in ((0, "40d"), (1, "20d")):
        run.forget([EVERYONE[n]], mode="retrain", deadline=when)
    first, second = run.forget_due().waiting
    assert first.runs_at == second.runs_at
    assert {first.deadline, second.deadline} == {one.deadline for one in run.forget_due().waiting}
    assert first.deadline != second.deadline
