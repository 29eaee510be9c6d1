"""Imported by `sitecustomize` in every process under test: notes each piece of work, and holds one of them until it is let go.

TAFT_WATCH      a folder of files:

* ``marks`` gets a line per begin and end of a call
* ``hold`` says which call is held
* ``held`` is there once it is, and says by which process
* ``go`` lets it go on
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

_POLL_S = 0.05


def _parts(_: Any, batch: Any) -> list[str]:
    return [f"{row['shard']}/{row['part']}" for row in batch.select(["shard", "part"]).to_pylist()]


def _task(_: Any, task: Any, *others: Any) -> list[str]:
    return [f"{task['shard']}/{task['generation']}"]


def _accuracy(_: Any, key: Any, *others: Any) -> list[str]:
    return [f"accuracy of {key}"]


def _outputs(_: Any, key: Any, *others: Any) -> list[str]:
    return [f"outputs of {key}"]


def _trial(settings: Any, _: Any) -> list[str]:
    return [json.dumps(settings, sort_keys=True)]


# module: names of what is watched, the kind of work, and which pieces of it a call does
WATCHED: dict[str, list[tuple[str, str, Callable[..., list[str]]]]] = {
    "taft_ray.prefix.part_writer": [("PartWriter.__call__", "part", _parts)],
    "taft_ray.workers.shard_worker": [("ShardWorker.fit", "fit", _task)],
    "taft_ray.workers.row_worker": [("RowWorker.fit", "fit", _task)],
    "taft_ray.workers.measuring": [
        ("Measuring.evaluate", "measure", _accuracy),
        ("Measuring.outputs", "measure", _outputs),
    ],
    "taft_ray.studies.trial": [("_measure", "trial", _trial)],
    "taft_ray.orchestration.prefix_pass": [("RayPasses.parts", "answer", _parts)],
}


@dataclass(frozen=True)
class Held:
    """A process that stays where it begins pieces of work."""

    pid: int
    pieces: list[str]


class Watch:
    """A folder in which processes under test note what they do; for them and for the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, what: str, pieces: list[str], at: str) -> None:
        line = json.dumps({"what": what, "pieces": pieces, "at": at, "pid": os.getpid()}) + "\n"
        with (self.folder / "marks").open("a") as marks:
            marks.write(line)  # one write of few bytes: lines of several processes do not mix

    def marks(self, what: str, at: str = "begin", by: int | None = None) -> list[list[str]]:
        """The pieces of this kind that each call began (or ended), in order. by: of this process alone."""
        file = self.folder / "marks"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [
            line["pieces"] for line in lines if (line["what"], line["at"]) == (what, at) and by in (None, line["pid"])
        ]

    def times(self, what: str) -> Counter[str]:
        """How often each piece of this kind was begun."""
        return Counter(chain.from_iterable(self.marks(what)))

    def hold(self, what: str, nth: int) -> None:
        """The ``nth`` call of this kind that begins, from 1, is to be held."""
        (self.folder / "hold").write_text(f"{what} {nth}")

    def held(self) -> Held | None:
        file = self.folder / "held"
        said = file.read_text() if file.exists() else ""
        return Held(**json.loads(said)) if said.endswith("\n") else None

    def go(self) -> None:
        (self.folder / "go").touch()

    def clear(self) -> None:
        for name in ("marks", "hold", "held", "go"):
            (self.folder / name).unlink(missing_ok=True)

    def begin(self, what: str, pieces: list[str]) -> None:
        """Note it, and stay here where it is the one to hold."""
        self.note(what, pieces, "begin")
        wanted = self.folder / "hold"
        if not wanted.exists() or wanted.read_text() != f"{what} {len(self.marks(what))}":
            return
        try:
            with (self.folder / "held").open("x") as held:
                held.write(json.dumps({"pid": os.getpid(), "pieces": pieces}) + "\n")
        except FileExistsError:
            return
        while not (self.folder / "go").exists():
            time.sleep(_POLL_S)


def _watched(real: Callable[..., Any], what: str, which: Callable[..., list[str]], watch: Watch) -> Callable[..., Any]:
    @wraps(real)  # whose signature Ray reads
    def work(*args: Any, **kwargs: Any) -> Any:
        pieces = which(*args)
        watch.begin(what, pieces)
        answer = real(*args, **kwargs)
        watch.note(what, pieces, "end")
        return answer

    def answers(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for answer in real(*args, **kwargs):
            watch.note(what, [f"{answer['shard']}/{answer['part']}"], "end")
            yield answer

    return answers if what == "answer" else work


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps what is watched as soon as its module is imported."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.left = watch, dict(WATCHED)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        wanted = self.left.pop(name, None)
        spec = None if wanted is None else importlib.machinery.PathFinder.find_spec(name, path)
        if wanted is None or spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            for names, what, which in wanted:
                owner, _, name = names.rpartition(".")
                holder = getattr(module, owner) if owner else module
                setattr(holder, name, _watched(getattr(holder, name), what, which, self.watch))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(folder: Path) -> dict[str, str]:
    """A folder, and the environment of processes that are watched in it."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport watch_hook\nwatch_hook.start()\n"
    )
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(root)]), "TAFT_WATCH": str(folder)}


def start() -> None:
    if "TAFT_WATCH" in os.environ:
        sys.meta_path.insert(0, _Finder(Watch(Path(os.environ["TAFT_WATCH"]))))
