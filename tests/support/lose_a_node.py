"""Train on a cluster of a head without CPUs for lanes and two workers, and lose a worker after the first delta."""

import logging
import os
import sys
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("support", "orchestration")]

import ray
from folder import kinds
from ray.cluster_utils import Cluster

from taft_ray.orchestration import session
from taft_ray.run.spec import run_spec
from taft_ray.storage import Store
from taft_ray.verbs.train import train

run = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, namespace=session.NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)

training = threading.Thread(target=train, args=(str(run), run_spec(Store(str(run)))), kwargs={"lanes": 1})
training.start()
while "trained" not in kinds(run):
    time.sleep(0.02)
# in the main thread: a node that is started handles signals
cluster.add_node(num_cpus=1)
cluster.remove_node(doomed, allow_graceful=False)
print("removed", flush=True)
training.join()
ray.shutdown()
cluster.shutdown()
os._exit(0)
