"""How far a verb is, as it is told on stderr: what starts is said, and nothing goes back."""

from pathlib import Path
from typing import Any

import pytest

from taft_ray.orchestration.lanes import Lanes
from taft_ray.orchestration.waiting import Notice
from taft_ray.progress import ProgressReport


class Terminal:
    """Bars that remember what they were told."""

    def __init__(self) -> None:
        self.bars: list[list[int]] = []

    def add_task(self, label: str, total: int) -> int:
        self.bars.append([])
        return len(self.bars) - 1

    def update(self, task: int, completed: int, total: int) -> None:
        self.bars[task].append(completed)

    def stop(self) -> None:
        pass


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    from taft_ray import progress

    made = Terminal()
    monkeypatch.setattr(progress, "_started_bars", lambda: made)
    return made


def test_a_second_pass_has_a_bar_of_its_own(terminal: Terminal) -> None:
    report = ProgressReport()
    for done, total in ((0, 100), (60, 100), (100, 100), (0, 40), (40, 40), (0, 40), (20, 40)):
        report("prefix", done, total)
    assert terminal.bars == [[0, 60, 100], [0, 40], [0, 20]]


def test_a_bar_does_not_go_back(terminal: Terminal) -> None:
    report = ProgressReport()
    for done in (0, 5, 3, 7):
        report("shards", done, 10)
    assert terminal.bars == [[0, 5, 7]]


def test_a_second_pass_is_said_in_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    report = ProgressReport()
    for done, total in ((0, 100), (100, 100), (0, 40), (40, 40)):
        report("prefix", done, total)
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["0/100", "100/100", "0/40", "40/40"]


def test_lanes_are_told_as_they_start(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    class Composer:
        def training_status(self) -> dict[str, Any]:
            return {"ready": {"lane-1": 2.0}, "trained": 1, "shards": 4, "monolith": None, "left": 0, "ended": 3.0}

    composer: Any = Composer()  # which answers alone
    lanes = Lanes(composer, [], [], 1.0, 2, Notice(str(tmp_path), "lanes"), "a GPU")
    lanes.wait(lambda what, done, total: told.append((what, done, total)))
    assert told == [("lanes", 1, 2), ("shards", 1, 4)]
