"""A skip that nobody listed fails a run of CI, and so does a listed test that is gone."""

import subprocess
import sys
from pathlib import Path

import expected_skips
import pytest
from expected_skips import named_nowhere, read_list

ROOT = Path(__file__).parents[1]
CODE = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_known(n):
    pytest.skip("needs a GPU that torch can use")

def test_other():
    {other}

@pytest.mark.xfail
def test_fails():
    raise AssertionError
"""


def outcome(folder: Path, other: str, listed: str, *options: str) -> tuple[int, str]:
    (folder / "test_a.py").write_text(CODE.format(other=other))
    (folder / "list.toml").write_text(f'[[skips]]\nreason = "needs a GPU"\ntests = {listed}\n')
    (folder / "pytest.ini").write_text("[pytest]\nexpected_skips = list.toml\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "expected_skips", *options]
    environment = {"PYTHONPATH": str(Path(expected_skips.__file__).parent), "PATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("other", "listed", "code", "words"),
    [
        ("pass", '["test_a.py::test_known"]', 0, "2 skipped"),
        ("pass", '["test_a.py"]', 0, "2 skipped"),
        (
            "pytest.skip('no disk')",
            '["test_a.py::test_known"]',
            1,
            "test_a.py::test_other was skipped (Skipped: no disk)",
        ),
        ("pytest.skip('no disk')", '["test_a.py"]', 1, "test_a.py::test_other was skipped"),
        ("pass", '["test_a.py::test_know"]', 1, "test_a.py::test_known[1] was skipped"),
        ("pass", '["test_a.py", "test_a.py::test_gone"]', 1, "test_a.py::test_gone is listed and is no test"),
        ("pass", '["test_a.py", "test_b.py"]', 1, "test_b.py is listed and is no test"),
    ],
)
def test_only_listed_skips_pass(other: str, listed: str, code: int, words: str, tmp_path: Path) -> None:
    status, out = outcome(tmp_path, other, listed, expected_skips.OPTION)
    assert status == code, out
    assert words in out


def test_skips_in_other_processes_count(tmp_path: Path) -> None:
    status, out = outcome(
        tmp_path, "pytest.skip('no disk')", '["test_a.py::test_known"]', expected_skips.OPTION, "-n", "1"
    )
    assert status == 1, out
    assert "test_a.py::test_other was skipped" in out
    assert "test_known" not in out.partition("skips that nobody expected")[2]


def test_without_the_option_any_skip_passes(tmp_path: Path) -> None:
    status, out = outcome(tmp_path, "pytest.skip('no disk')", "[]")
    assert status == 0, out


def test_every_listed_test_is_there() -> None:
    listed = read_list(ROOT / "tests/expected_skips.toml")
    assert len(listed) > 5
    assert list(named_nowhere(listed, ROOT)) == []
