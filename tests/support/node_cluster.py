"""A Ray of a head without CPUs and worker nodes of one CPU each, whose nodes are lost, drained and added by word."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from processes import descendants

# a node that is silent is given up in seconds and not in a minute; tests beside do not starve its workers
SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_worker_niceness": "0",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NodeCluster:
    """The test's side of the cluster, which is another process. environment: of it, and of commands that join it."""

    def __init__(self, process: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
        self.process, self.environment = process, environment
        self.address, self.dashboard = "", ""
        self.raylets: dict[str, int] = {}
        self._heard()

    def _heard(self) -> Any:
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.address, self.dashboard, self.raylets = said["address"], said["dashboard"], said["raylets"]
        return said

    def tell(self, what: str, *arguments: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self.process.stdin.flush()
        self._heard()

    def drain(self, node: str, seconds: float) -> None:
        """Tell Ray, as a spot notice does, that a node will be taken away in so many seconds."""
        preempted = 2  # autoscaler.proto: DRAIN_NODE_REASON_PREEMPTION
        self.tell("drain", node, preempted, int((time.time() + seconds) * 1000))

    def env(self) -> dict[str, str]:
        """The environment of a command that joins it."""
        return {**self.environment, "RAY_ADDRESS": self.address}

    def node_of(self, pid: int) -> str:
        """The worker node on which a process runs."""
        [node] = [node for node, raylet in self.raylets.items() if pid in descendants(raylet)]
        return node

    def processes(self) -> list[int]:
        return descendants(self.process.pid)

    def end(self) -> None:
        left = self.processes()
        self.process.kill()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def node_cluster(
    environment: Mapping[str, str], nodes: int = 2, *, dashboard: bool = False, soon: bool = True
) -> Iterator[NodeCluster]:
    """environment: of all its processes, and of commands that join it. soon: lost nodes are missed in seconds, not as by default."""
    environment = {**environment, **(SOON if soon else {"RAY_worker_niceness": "0"})}
    scratch = tempfile.mkdtemp(prefix="tn", dir="/tmp")  # a socket's path must be short
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, __file__, scratch, str(nodes), str(int(dashboard))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment, "PATH": path},
    ) as process:  # fmt: skip
        cluster = None
        try:
            cluster = NodeCluster(process, environment)
            yield cluster
        finally:
            cluster.end() if cluster is not None else process.kill()
            shutil.rmtree(scratch, ignore_errors=True)


def main(scratch: str, nodes: int, dashboard: bool) -> None:
    """Until the input ends."""
    from ray._private.utils import write_ray_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # native code
    from ray.cluster_utils import Cluster

    logging.disable(logging.CRITICAL)
    os.environ.pop("RAY_ADDRESS", None)
    out, sys.stdout = sys.stdout, sys.stderr  # Ray may print
    small: dict[str, Any] = {"object_store_memory": 100 * 2**20}
    head: dict[str, Any] = {"num_cpus": 0, "temp_dir": scratch, "include_dashboard": dashboard, **small}
    if dashboard:  # another Ray on this machine has the default ports
        head |= {name: free_port() for name in ("dashboard_port", "dashboard_agent_listen_port", "metrics_export_port")}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    write_ray_address(
        str(cluster.address), scratch
    )  # where a job looks for its cluster; else it takes any of this machine
    workers = {node.node_id: node for node in (cluster.add_node(num_cpus=1, **small) for _ in range(nodes))}

    def say() -> None:
        raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in workers.items()}
        said = {"address": cluster.address, "dashboard": f"http://{cluster.webui_url}", "raylets": raylets}
        print(json.dumps(said), file=out, flush=True)

    say()
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        if what == "lose":
            cluster.remove_node(workers.pop(arguments[0]), allow_graceful=False)
        elif what == "add":
            node = cluster.add_node(num_cpus=1, **small)
            workers[node.node_id] = node
        elif what == "drain":
            node, reason, deadline = arguments
            accepted, why = GcsClient(address=cluster.address).drain_node(node, reason, "a test", deadline)
            assert accepted, why
        say()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")
