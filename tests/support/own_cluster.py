"""A Ray of its own, with as many CPUs and GPUs as it is told, real or not; commands join it by its address."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from processes import descendants, end


@contextmanager
def own_cluster(cpus: int, gpus: int = 0) -> Iterator[dict[str, str]]:
    """The environment of a command that joins it."""
    with subprocess.Popen(
        [sys.executable, __file__, str(cpus), str(gpus)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield {"RAY_ADDRESS": process.stdout.readline().strip()}
        finally:
            left = descendants(process.pid)
            process.kill()
            end(left)


def main(cpus: int, gpus: int) -> None:
    """Until the input ends."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local", namespace="taft_ray", num_cpus=cpus, num_gpus=gpus, include_dashboard=False,
        object_store_memory=200 * 2**20, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
