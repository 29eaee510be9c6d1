"""Every public docstring has an example, and it prints what it shows. Those on Ray are in test_docstrings_on_ray.py."""

import doctest
from pathlib import Path

import pytest
from docstring_examples import ON_RAY, SKIPPED, differences, examples_of, public

DOCSTRINGS = public()


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_a_public_docstring_has_an_example(name: str) -> None:
    assert examples_of(name, DOCSTRINGS[name]), f"{name} has no example; see CONTRIBUTING.md"


def test_no_example_is_skipped_without_a_reason() -> None:
    skipped = {
        name
        for name, docstring in DOCSTRINGS.items()
        if any(doctest.SKIP in example.options for example in examples_of(name, docstring))
    }
    assert skipped == SKIPPED.keys()
    assert set(ON_RAY) <= DOCSTRINGS.keys()


@pytest.mark.parametrize("name", [name for name in DOCSTRINGS if name not in ON_RAY])
def test_an_example_prints_what_it_shows(name: str, beside_the_pets: Path, outside: None) -> None:
    assert not (told := differences(name)), told
