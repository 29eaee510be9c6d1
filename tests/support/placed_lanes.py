"""Train on a cluster whose nodes have labels and a custom resource, and say on which node each worker was."""

import json
import logging
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("support", "orchestration")]

import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from taft_ray.cli import main
from taft_ray.orchestration import places, session

OWN = ("RayTrainWorker", "PartWriter")  # in the names of classes that hold a network


@ray.remote(num_cpus=0)
def node() -> str:
    """Where this task is."""
    return ray.get_runtime_context().get_node_id()


def chosen(selector: str, wait: float) -> list[bool]:
    """Whether Ray places a task by this selector of the label "pool", and whether on a node that ours selects; [] is nowhere."""
    task = node.options(label_selector={"pool": selector}).remote()
    done, _ = ray.wait([task], timeout=wait)
    if not done:
        ray.cancel(task)
        return []
    labels = {one["NodeID"]: one["Labels"].get("pool") for one in ray.nodes()}
    return [places.selects(selector, labels[ray.get(task)])]


def run(arguments: list[str], selectors: list[str]) -> None:
    head = {"num_cpus": 1, "include_dashboard": False, "labels": {"pool": "head"}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, resources={"ssd": 1}, labels={"pool": "a"})
    cluster.add_node(num_cpus=4, labels={"pool": "b"})
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    ray.init(address=cluster.address, namespace=session.NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    labels = [one["Labels"].get("pool") for one in ray.nodes()]
    asked = {
        selector: [sum(places.selects(selector, label) for label in labels), *chosen(selector, 5)]
        for selector in selectors
    }
    try:
        main(arguments, standalone_mode=False)
    finally:
        pools = {one["NodeID"]: one["Labels"].get("pool") for one in ray.nodes()}
        where = [
            [one["ActorClassName"], pools.get(one["Address"]["NodeID"])]
            for one in actors().values()
            if any(name in one["ActorClassName"] for name in OWN)
        ]
        print("\n" + json.dumps({"where": where, "selected": asked}), flush=True)
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)


if __name__ == "__main__":
    run(sys.argv[2:], json.loads(sys.argv[1]))
