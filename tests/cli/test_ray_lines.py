"""Ray's own lines are not shown; what matters in them is said in our words, and everything else passes."""

import io

import pytest

from taft_ray.cli.ray_lines import RayLines


def shown(*writes: str) -> str:
    target = io.StringIO()
    stream = RayLines(target)
    for text in writes:
        print(text, end="", file=stream)
    stream.finish()
    return target.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        "\x1b[33m(raylet)\x1b[0m WARNING: 8 PYTHON worker processes have been started on node: e9af with address: 192.0.2.2",
        "(raylet, ip=10.0.0.3) Spilled 2048 MiB",
        "\x1b[36m(ShardWorker pid=4711)\x1b[0m some line",
        "(autoscaler +3s) Tip: use `ray status` to view detailed cluster status.",
        "\x1b[36m(MapWorker(MapBatches(PartWriter)) pid=1)\x1b[0m x",
    ],
)
def test_lines_of_ray_are_dropped(line: str) -> None:
    assert shown(line + "\n") == ""


def test_a_lost_machine_is_said_once_and_ray_s_further_lines_about_it_are_dropped() -> None:
    lost = (
        "(raylet) The node with node id: 0af3 has been marked dead because the detector has missed too many heartbeats. Some "
        "common causes include: (1) the process was killed by the OOM killer due to high memory usage\n"
        "\t(2) raylet has lagging heartbeats due to slow network or busy workload.\n"
        "(raylet) Raylet is terminated. Termination is unexpected. Last 2 lines of the Raylet logs:\n"
        "    [2026-11-30 21:31:59,688 I 1 1] (raylet) worker_pool.cc:564: Started worker process with pid 1\n"
        "    [2026-11-30 21:32:00,688 I 1 1] (raylet) worker_pool.cc:564: Started worker process with pid 2\n\n"
    )
    ours = "taft-ray: the cluster lost a machine; what it had in hand is done again elsewhere\n"
    assert shown("before\n", lost, "after\n", "  and on\n") == f"before\n{ours}after\n  and on\n"


def test_other_lines_pass_in_order_whatever_they_are_written_in() -> None:
    assert shown("a li", "ne\n(an aside) in", " brackets\nend") == "a line\n(an aside) in brackets\nend\n"


def test_memory_and_waiting_are_said_in_our_words_and_not_again_at_once() -> None:
    killed = "(raylet) 3 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed\n"
    assert shown("(raylet) 1 worker(s) were killed due to the node running low on memory. x\n").count(
        "ran out of memory"
    )
    waiting = "(autoscaler +9s) Error: No available node types can fulfill resource request {'GPU': 1.0}\n"
    told = shown(killed, killed, waiting, killed).splitlines()
    assert len(told) == 2
    assert "ran out of memory; give the run fewer --lanes" in told[0]
    assert "waiting for CPUs or GPUs" in told[1]
