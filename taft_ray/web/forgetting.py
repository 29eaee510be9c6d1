"""Forgets that are begun on the page: an estimate, a confirmation by the number of samples, and the command in a process of its own.

The command is `taft-ray forget`, as a person types it. It gets the ids by its standard input, so that they are on no disk and in no
list of processes. It goes on where this process ends.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from taft_ray.answers import Estimate
from taft_ray.composer.selection import Selection
from taft_ray.errors import UsageError
from taft_ray.pages.live.request_pages import Asked
from taft_ray.plans.forget import MODES
from taft_ray.verbs.deadline import unix_deadline
from taft_ray.verbs.forget import estimate

COMMAND = (sys.executable, "-m", "taft_ray.cli", "forget")
_PLAN_S = 900.0  # for so long an estimate can be confirmed
_MOST_PLANS, _MOST_JOBS, _AT_ONCE = 100, 100, 4
_LINES, _LINE = 12, 300  # of the command's words that are kept, and letters of each


@dataclass(frozen=True)
class Plan:
    """A forget that was estimated. ids: one per sample."""

    run: str
    ids: tuple[str, ...]
    mode: str
    deadline: str
    estimate: dict[str, Any]
    made: float = field(default_factory=time.monotonic)

    @property
    def told(self) -> str:
        """The estimate for a person."""
        return str(Estimate.from_json(self.estimate))


@dataclass
class Job:
    """A forget that was begun here. state: running, done or failed."""

    run: str
    name: str
    began: float
    state: str = "running"
    request: str | None = None
    waiting: bool = False
    problem: str | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    ended: threading.Event = field(default_factory=threading.Event)

    def to_json(self) -> dict[str, Any]:
        known = ("name", "began", "state", "request", "waiting", "problem")
        return {**{name: getattr(self, name) for name in known}, "lines": list(self.lines)}


class Forgets:
    """The plans and the jobs of one server."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def plan(self, run: str, asked: Asked) -> tuple[str | None, Plan]:
        """Estimate a forget: its name, by which it can be confirmed, and the plan. Errors as of `estimate`.

        No name: nothing is left to be forgotten.
        """
        ids = tuple(dict.fromkeys(line for line in asked.ids.replace("\r\n", "\n").split("\n") if line))
        if not ids:
            raise UsageError("no ids were given; one id per line")
        if asked.mode and asked.mode not in MODES:
            raise UsageError(f"mode {asked.mode!r}: expected one of {', '.join(MODES)}")
        unix_deadline(asked.deadline or None)
        made = Plan(run, ids, asked.mode, asked.deadline, estimate(run, Selection(ids=ids), asked.mode or None))
        if not made.estimate.get("samples_to_forget"):
            return None, made
        name = secrets.token_hex(16)
        with self._lock:
            now = time.monotonic()
            self._plans = {key: one for key, one in self._plans.items() if now - one.made < _PLAN_S}
            while len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[name] = made
        return name, made

    def planned(self, run: str, name: str) -> Plan:
        """A plan of a run; UsageError where it is none, or too old."""
        with self._lock:
            made = self._plans.get(name)
        if made is None or made.run != run or time.monotonic() - made.made > _PLAN_S:
            raise UsageError("this estimate is too old, or was confirmed before; ask for another")
        return made

    def begin(self, run: str, name: str, count: str) -> Job:
        """Carry out a plan, once. UsageError where ``count`` is not its number of samples, or too many are at work."""
        made = self.planned(run, name)
        expected = made.estimate["samples_to_forget"]
        if count.strip() != str(expected):
            raise UsageError(
                f"expected {expected}, the number of samples, got {count.strip()[:40]!r}; nothing was forgotten"
            )
        with self._lock:
            busy = [one for one in self._jobs.values() if one.state == "running"]
            if len(busy) >= _AT_ONCE:
                raise UsageError(f"{len(busy)} forgets of this page are at work; wait for one of them")
            if self._plans.pop(name, None) is None:
                raise UsageError("this estimate was confirmed before")
            for old in [key for key, one in self._jobs.items() if one.state != "running"][
                : max(0, len(self._jobs) - _MOST_JOBS)
            ]:
                del self._jobs[old]
            job = self._jobs[secrets.token_hex(8)] = Job(run, "", time.time())
            job.name = next(key for key, one in self._jobs.items() if one is job)
        threading.Thread(target=_carry_out, args=(job, made), name=f"forget {job.name}", daemon=True).start()
        return job

    def job(self, run: str, name: str) -> Job | None:
        """A job of a run; None where there is none."""
        with self._lock:
            found = self._jobs.get(name)
        return found if found is not None and found.run == run else None

    def version(self, run: str) -> str:
        """A text that changes when a job of a run does."""
        with self._lock:
            return ",".join(f"{one.name}{one.state}{len(one.lines)}{list(one.lines)[-1:]}" for one in self._jobs.values() if one.run == run)  # fmt: skip


def _carry_out(job: Job, plan: Plan) -> None:
    try:
        _run(job, plan)
    except (OSError, ValueError, KeyError) as error:
        job.problem, job.state = f"the command cannot be run: {error}", "failed"
    finally:
        job.ended.set()


def _run(job: Job, plan: Plan) -> None:
    line = [*COMMAND, plan.run, "--ids", "@/dev/stdin", "--json"]
    line += ["--mode", plan.mode] if plan.mode else []
    line += ["--deadline", plan.deadline] if plan.deadline else []
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        listening = threading.Thread(target=_listen, args=(job, process.stderr), daemon=True)
        listening.start()
        process.stdin.write("\n".join(plan.ids).encode())
        process.stdin.close()
        told = process.stdout.read()
        listening.join()
        code = process.wait()
    if code != 0:
        said = list(job.lines)[-1:] or [f"exit code {code}"]
        job.problem, job.state = said[0].removeprefix("taft-ray: "), "failed"
        return
    answer = json.loads(told)
    job.request, job.waiting = answer["request"], bool(answer.get("waiting"))
    job.state = "done"


def _listen(job: Job, stream: Any) -> None:
    for line in stream:
        if words := line.decode("utf-8", "replace").strip():
            job.lines.append(words[:_LINE])
