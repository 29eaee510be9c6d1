"""`doctor`: what would go wrong with runs here, before one is begun. It changes nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from taft_ray.counting import plural
from taft_ray.errors import TaftError
from taft_ray.log import operation
from taft_ray.run.address import run_address
from taft_ray.run.spec import is_run
from taft_ray.run.state import read_state
from taft_ray.storage import Store
from taft_ray.storage.probe import check_creates_once, check_use
from taft_ray.verbs import retention
from taft_ray.verbs.composer import in_cluster

PACKAGES = ("taft_ray", "ray", "torch", "timm", "pyarrow", "fsspec", "numpy")
LEAST_DISK = 5 << 30  # bytes of temporary space: copies of parts, and Ray's own files
MOST_SKEW_S = 30.0  # between clocks: requests are due by them


@dataclass(frozen=True)
class _Finding:
    check: str
    ok: bool
    told: str

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "ok": self.ok, "told": self.told}


@operation("doctor")
def doctor(run: str | None = None) -> dict[str, Any]:
    """Findings, good and bad: {"run", "ok", "findings": [{"check", "ok", "told"}]}. run: where one is, or is to be."""
    where = None if run is None else run_address(run)
    findings = [_software(), _disk(here()), *_ray(where)]
    if where is not None:
        findings += _storage(Store(where))
    return {"run": where, "ok": all(one.ok for one in findings), "findings": [one.to_json() for one in findings]}


def here(run: str | None = None) -> dict[str, Any]:
    """A node's own word. run: tried for writing."""
    problem = None if run is None else _problem(lambda: check_use(Store(run)))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return {"host": platform.node(), "versions": versions, "free": free, "time": time.time(), "storage": problem}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _problem(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except TaftError as error:
        return str(error)
    return None


def _software() -> _Finding:
    found = here()["versions"]
    missing = [name for name, known in found.items() if known is None]
    told = ", ".join(f"{name} {known}" for name, known in found.items() if known is not None)
    return _Finding("software", not missing, f"{told}; missing: {', '.join(missing)}" if missing else told)


def _disk(node: dict[str, Any]) -> _Finding:
    free, enough = node["free"], node["free"] >= LEAST_DISK
    told = f"{free / 2**30:.1f} GiB of temporary space on {node['host']}"
    return _Finding("disk", enough, told if enough else f"{told}; copies of parts need more, set TMPDIR")


def _ray(run: str | None) -> Iterator[_Finding]:
    """The cluster of RAY_ADDRESS, node by node; nothing is started where there is none."""
    if not in_cluster():
        cores = os.cpu_count() or 1
        yield _Finding(
            "ray", True, f"no cluster is named: Ray will start on this machine, with {plural(cores, 'core')}"
        )
        return
    from taft_ray.orchestration import session

    try:
        with session.connected():
            yield from _cluster(run)
    except Exception as error:  # whatever keeps Ray from answering: that is the finding
        said = str(error).strip().partition("\n")[0]
        yield _Finding("ray", False, said if isinstance(error, TaftError) else f"{type(error).__name__}: {said}")


def _cluster(run: str | None) -> Iterator[_Finding]:
    from taft_ray.orchestration import places
    from taft_ray.orchestration.nodes import on_every_node

    cpus, gpus = places.resources()
    guarded = os.environ.get("RAY_AUTH_MODE") == "token"
    lock = "token authentication is on" if guarded else "without a token: whoever reaches its ports can run code"
    yield _Finding("ray", True, f"{plural(cpus, 'CPU')} and {plural(gpus, 'GPU')}; {lock}")
    yield _gpus(*places.gpus_within_reach())
    sent = time.time()
    nodes = on_every_node(here, None if run is None or Store(run).local else run)
    yield from _nodes(nodes, sent, time.time())


def _gpus(count: int, why: str) -> _Finding:
    told = f"{why}: new runs are on {'GPUs' if count else 'CPUs'}"
    return _Finding("device", True, told if count else f"{told}; train --gpus N says that an autoscaler starts some")


def _nodes(nodes: list[dict[str, Any]], sent: float, got: float) -> Iterator[_Finding]:
    """Versions, clocks, disks and storage of every node, against this process's."""
    mine = here()["versions"]
    for node in nodes:
        other = {name: known for name, known in node["versions"].items() if known != mine[name]}
        told = ", ".join(f"{name} {known or 'missing'}, here {mine[name]}" for name, known in other.items())
        yield _Finding(
            "versions", not other, f"{node['host']}: {told}; make them equal" if other else f"{node['host']}: as here"
        )
        skew = max(sent - node["time"], node["time"] - got, 0.0)
        yield _Finding("clock", skew <= MOST_SKEW_S, f"{node['host']}: {skew:.0f} s off")
        yield _disk(node)
        if node["storage"] is not None:
            yield _Finding("storage of a node", False, f"{node['host']}: {node['storage']}")


def _storage(store: Store) -> Iterator[_Finding]:
    there = is_run(store)
    yield _Finding("run", True, f"{store.uri} {'is a run' if there else 'has no run yet'}")
    if store.local and not _parent_exists(store.uri):
        yield _Finding(
            "storage", False, f"{store.uri}: the folder above it does not exist; make it, or give another path"
        )
        return
    problem = _problem(lambda: check_use(store))
    yield _Finding("storage", problem is None, problem or f"{store.uri} can be written, read, listed and removed from")
    if problem is not None:
        return
    problem = _problem(lambda: check_creates_once(store))
    yield _Finding("commits", problem is None, problem or "an object that is there is not created again")
    kept = store.versioned()
    told = {
        True: "older versions are kept, and a forget removes them, too",
        False: "no older versions are kept",
        None: "nobody can tell whether older versions of removed objects are kept; certificates say so",
    }[kept]
    yield _Finding("older versions", True, told)
    if there:
        yield from _retention(store)


def _retention(store: Store) -> Iterator[_Finding]:
    """Whether the key of the id hashes is kept for too long; nothing where no date is set."""
    try:
        told = retention.told(read_state(store), time.time())
    except TaftError as error:
        yield _Finding("retention", False, str(error))
        return
    if told["until"] is not None:
        day = f"{datetime.fromtimestamp(told['until'], UTC):%Y-%m-%d %H:%M} UTC"
        good = "is destroyed" if told["key_destroyed"] else f"is kept until {day}"
        wrong = f"{retention.way_out(store.uri)} (the date was {day})"
        yield _Finding("retention", not told["passed"], wrong if told["passed"] else f"the key of the id hashes {good}")


def _parent_exists(uri: str) -> bool:
    return Path(uri).parent.is_dir()
