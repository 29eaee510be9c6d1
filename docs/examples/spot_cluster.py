"""A machine goes in the middle of a training, as spot machines do, and the same model comes out.

    python docs/examples/spot_cluster.py FOLDER

The machines are processes of this one: a head, and two workers of which one is removed without warning.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import ray
from pictures import patients
from ray.cluster_utils import Cluster

import taft_ray as tr
from taft_ray.embedded import EMBEDDED_NAME
from taft_ray.errors import TaftError


def trained(run: tr.Run, data: Path, lanes: int) -> str:
    """Train, and the digest of the composed model."""
    composed = run.train(data, model=EMBEDDED_NAME, shards=12, solver="ridge", lanes=lanes).composed
    assert composed is not None
    return composed


def deltas(run: tr.Run) -> int:
    """How many shards have been trained."""
    try:
        return sum(shard.delta is not None for shard in run.status().shards)
    except TaftError:  # it has not begun
        return 0


def main(folder: Path) -> None:
    data, _ = patients(folder / "data")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    spot = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, namespace="taft_ray", log_to_driver=False)

    run, digests = tr.Run(folder / "spot"), []
    training = threading.Thread(target=lambda: digests.append(trained(run, data, lanes=2)))
    training.start()
    while deltas(run) < 3:
        time.sleep(0.05)
    cluster.add_node(num_cpus=2)  # an autoscaler would start it
    cluster.remove_node(spot, allow_graceful=False)
    print(f"a machine has gone after {deltas(run)} shards")
    training.join()

    undisturbed = trained(tr.Run(folder / "undisturbed"), data, lanes=1)
    ray.shutdown()
    cluster.shutdown()
    assert digests == [undisturbed], (digests, undisturbed)
    print(f"the same model: {undisturbed[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
