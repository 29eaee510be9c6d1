"""The facts of a run, for tests that only read them."""

from typing import Any

import pytest
from run_facts import run_facts


@pytest.fixture
def facts() -> dict[str, Any]:
    return run_facts()
