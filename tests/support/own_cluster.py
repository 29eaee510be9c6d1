"""A Ray of its own, with as many CPUs and GPUs as it is told, real or not; commands join it by its address."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from processes import descendants, end


@contextmanager
def own_cluster(cpus: int, gpus: int = 0, metrics_port: int = 0, store_mb: int = 200) -> Iterator[dict[str, str]]:
    """The environment of a command that joins it.

    metrics_port: where its node may be scraped; any port by default. store_mb: of the object store.
    """
    with subprocess.Popen(
        [sys.executable, __file__, str(cpus), str(gpus), str(metrics_port), str(store_mb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield {"RAY_ADDRESS": process.stdout.readline().strip()}
        finally:
            left = descendants(process.pid)
            process.kill()
            end(left)


HOLD = """
import sys, ray
ray.init(address=sys.argv[1], namespace="held", log_to_driver=False)

@ray.remote
class Holder:
    def ready(self):
        return True

holder = Holder.options(num_cpus=int(sys.argv[2])).remote()
print(ray.get(holder.ready.remote()), flush=True)
sys.stdin.read()
"""


@contextmanager
def cpus_held(address: str, cpus: int = 1) -> Iterator[None]:
    """As long as the block lasts, somebody else has these CPUs of the cluster."""
    line = [sys.executable, "-c", HOLD, address, str(cpus)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "True"
        try:
            yield
        finally:
            process.communicate()


def main(cpus: int, gpus: int, metrics_port: int, store_mb: int) -> None:
    """Until the input ends."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local", namespace="taft_ray", num_cpus=cpus, num_gpus=gpus, include_dashboard=False,
        object_store_memory=store_mb * 2**20, log_to_driver=False, logging_level=logging.ERROR,
        _metrics_export_port=metrics_port or None,
    )  # fmt: skip
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
