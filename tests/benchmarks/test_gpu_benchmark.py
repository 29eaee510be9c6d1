"""The GPU benchmark on a CPU with a tiny model: every part gives a number, without ray and without a network."""

import json
import subprocess
import sys
from pathlib import Path

from tiny import MODEL

ROOT = Path(__file__).parents[2]
ALONE = """
import socket, sys
sys.modules["ray"] = None  # importing it fails
def refuse(*_): raise AssertionError("the benchmark asked for a network")
socket.socket.connect = refuse
from benchmarks.gpu import main
sys.exit(main(sys.argv[1:]))
"""


def test_every_part_is_measured_without_ray_or_network() -> None:
    words = ["--device", "cpu", "--model", MODEL, "--threads", "1", "--deterministic", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words], capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["deterministic"]
    assert answer["roofline"]["copy_gb_per_s"] > 0
    (row,) = answer["models"]
    assert not [part for part in row.values() if isinstance(part, dict) and "failed" in part]
    assert min(row["prefix"]["per_s"].values()) > 0
    assert min(row["plain"]["per_s"].values()) > 0
    exact, half = row["step"]["rows"]
    assert exact["difference"] == [0.0, 0.0]
    assert 0 < max(half["difference"]) < 0.03
    assert exact["times_plain"]["eager"] > 1
    assert 0 < exact["of_floor"]["eager"] < 1
    assert row["fits"]["repeats"] == dict.fromkeys(("tokens", "adam", "adam_bfloat16", "ridge"), True)
    assert row["fits"]["ridge_residual"] < 1e-5
    assert row["serving"]["float32"]["ratio_of_times"] > 0
