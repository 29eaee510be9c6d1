"""Lines of Ray itself do not reach a person; everything else does, at once and in order."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SAMPLES

PROGRAM = """
import logging, os, sys
logging.getLogger("taft_ray").setLevel(logging.{level})
from taft_ray.orchestration.session import _without_native_lines
os.write(2, b"before\\n")
try:
    with _without_native_lines():
        os.write(2, b"[2026-11-29 10:50:07,063 I 1187 1187] logging.cc:303: Set ray log level\\n")
        print("ours", file=sys.stderr, flush=True)
        os.write(2, b"[2026-11-29 10:50:07,063 W 1 1] (raylet) node")
        os.write(2, b"_manager.cc:1: x\\n")
        os.write(2, b"\\r[  3%] a bar")
        raise KeyError("out of it")
except KeyError:
    os.write(2, b"\\nafter\\n")
"""


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_native_lines_are_dropped_unless_records_of_info_are_wanted(level: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.replace("{level}", level)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.replace("\r", "\n").splitlines()
    assert [line for line in lines if ".cc" not in line and line] == ["before", "ours", "[  3%] a bar", "after"]
    assert any(".cc" in line for line in lines) == (level == "INFO")


def test_ray_data_is_silent_where_it_indexes_many_files(
    ray_session: None, class_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from taft_ray.data import open_source
    from taft_ray.orchestration import prefix_pass

    monkeypatch.setattr(prefix_pass, "FILES_A_TASK", 16)
    logging.getLogger("ray.data").setLevel(logging.INFO)  # as importing it does
    rows = prefix_pass.RayPasses().index(open_source(str(class_folder)).files)
    assert rows.num_rows == SAMPLES
    out = capfd.readouterr()
    assert "streaming_executor" not in out.out + out.err
    assert "Execution plan" not in out.out + out.err
