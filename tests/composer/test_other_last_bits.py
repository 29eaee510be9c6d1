"""A composition is a machine's: another one, with other instructions, may compute other last bits of the same sums."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taft_ray.composer.composer import Composer
from taft_ray.run import solve


@pytest.mark.timeout(60)
def test_a_machine_with_other_last_bits_composes_too(
    ridge_never_seen: tuple[Path, dict[str, Any]], copy_of: Callable[..., Path]
) -> None:
    def a_little_off(*arguments: Any) -> solve.Model:
        return {name: np.nextafter(value, np.float32(9)) for name, value in solve.solve(*arguments).items()}

    run = str(copy_of(ridge_never_seen[0]))
    composed = Composer(run, a_little_off).compose()
    assert composed["digest"] != ridge_never_seen[1]["composed"]
    assert Composer(run).composed_digest() == composed["digest"]  # the ledger's latest
