"""A pytest plugin: with --expected-skips-only a skip fails the run, unless the list names the test and its reason.

The list is the file that the ini option ``expected_skips`` names; an entry of it that names no test fails the run, too.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

OPTION = "--expected-skips-only"


def read_list(file: Path) -> dict[str, str]:
    """test → words that the reason of its skip must have."""
    groups = tomllib.loads(file.read_text(encoding="utf-8"))["skips"]
    return {test: str(group["reason"]) for group in groups for test in group["tests"]}


def is_expected(test: str, reason: str, expected: Mapping[str, str]) -> bool:
    name = test.partition("[")[0]
    return any(words in reason and f"{name}::".startswith(f"{entry}::") for entry, words in expected.items())


def named_nowhere(expected: Mapping[str, str], root: Path) -> Iterator[str]:
    """Entries whose file, class or function is not there (any more)."""
    for entry in expected:
        file, *path = entry.split("::")
        body = ast.parse((root / file).read_text(encoding="utf-8")).body if (root / file).is_file() else None
        for name in path:
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [node for node in body or () if isinstance(node, kinds) and node.name == name]
            body = found[0].body if found else None
        if body is None:
            yield entry


class ExpectedSkips:
    def __init__(self, expected: Mapping[str, str], root: Path) -> None:
        self.expected, self.root = expected, root
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._judge(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._judge(report.nodeid, report.longrepr)

    def _judge(self, test: str, skipped: object) -> None:
        reason = str(skipped[2] if isinstance(skipped, tuple) else skipped)
        if not is_expected(test, reason, self.expected):
            self.problems.append(f"{test} was skipped ({reason}); mend that, or list it")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.problems += [
            f"{entry} is listed and is no test; take it out" for entry in named_nowhere(self.expected, self.root)
        ]
        if self.problems and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.problems:
            terminalreporter.section("skips that nobody expected", red=True)
            for problem in self.problems:
                terminalreporter.line(problem)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="Fail for a skip that is not in the list of expected ones.")
    parser.addini("expected_skips", "The list of expected skips, relative to the root.", default="")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION) and not hasattr(config, "workerinput"):  # of pytest-xdist, whose reports come here
        listed = config.rootpath / config.getini("expected_skips")
        config.pluginmanager.register(ExpectedSkips(read_list(listed), config.rootpath), "expected-skips")
