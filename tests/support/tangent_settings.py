import warnings
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _forward_mode_is_loaded() -> None:
    # The first torch.func.jvp of a process imports torch's own decompositions, which call the deprecated torch.jit.script.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated", category=FutureWarning)
        torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # the sums of a matrix product depend on the thread count, and tiny matrices do not want threads
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
