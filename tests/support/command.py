"""Run a command line as a user does, or in this process where Ray is not needed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
from click.testing import CliRunner
from processes import descendants, end

from taft_ray.answers import OF_COMMANDS
from taft_ray.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "taft_ray.cli"]


@cache
def schema_of(name: str) -> dict[str, Any]:
    """The published schema of an answer."""
    return json.loads((files("taft_ray.answers") / "schemas" / f"{name}.json").read_text())


def _wrong(answer: Any, schema: dict[str, Any]) -> str | None:
    """Why an answer is not what a schema says; None where it is."""
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(answer), None)
    return None if error is None else error.message


@dataclass
class Answer:
    code: int
    out: str
    err: str
    command: str

    @property
    def json(self) -> Any:
        """stdout is one JSON object and nothing else."""
        answer = json.loads(self.out)
        assert self.out.count("\n") == 1
        assert isinstance(answer, dict)
        errors = [_wrong(answer, schema_of(kind.__name__)) for kind in OF_COMMANDS[self.command]]
        assert None in errors, errors
        return answer

    def complains(self, code: int, *words: str) -> None:
        """One clear line on stderr, nothing on stdout, no traceback."""
        assert self.code == code, (self.code, self.err)
        assert self.out == "", self.out
        assert "Traceback" not in self.err
        lines = [
            line
            for line in self.err.splitlines()
            if line.strip() and not line.startswith("[") and "(raylet)" not in line
        ]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("taft-ray: ")
        for word in words:
            assert word in lines[0], lines[0]


def here(*arguments: object) -> Answer:
    """In this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr, str(next(iter(arguments), "")))


@contextmanager
def started(log: Path, *arguments: object, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """In a process of its own, which writes to ``log``. Its processes that are left at the end are ended by id."""
    with log.open("wb") as target:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], cwd=ROOT, env={**os.environ, **(env or {})}, stdout=target, stderr=target
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            left = descendants(process.pid)
            process.kill()
            process.wait()
            end(left)


def spawned(*arguments: object, env: Mapping[str, str] | None = None, timeout: float = 300) -> Answer:
    """In a process of its own."""
    done = subprocess.run(
        [*COMMAND, *(str(argument) for argument in arguments)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Answer(done.returncode, done.stdout, done.stderr, str(next(iter(arguments), "")))
