"""Run a command line as a user does, or in this process where Ray is not needed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from taft_ray.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "taft_ray.cli"]


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout is one JSON object and nothing else."""
        answer = json.loads(self.out)
        assert self.out.count("\n") == 1
        assert isinstance(answer, dict)
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
    return Answer(result.exit_code, result.stdout, result.stderr)


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
    return Answer(done.returncode, done.stdout, done.stderr)
