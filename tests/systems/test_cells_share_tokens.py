"""Cells of a table are measured on tokens that others made only where these are their own."""

import pytest

from taft_ray.studies.cells import tokens_in_common
from taft_ray.systems import TABLES, Wanted, table


@pytest.fixture
def wanted(cell_of) -> Wanted:
    return Wanted(base=cell_of(), seeds=(0, 1), shards=(2, 5), many_blocks=2, site_width=96)


def keys(name: str, wanted: Wanted) -> set[tuple[str, bool]]:
    return {tokens_in_common(cell) for cell in table(name, wanted).cells}


def test_rows_over_other_views_are_other_tokens(wanted: Wanted) -> None:
    assert len(keys("views", wanted)) == 4


def test_depth_and_sites_decide_and_shards_seeds_and_recipes_do_not(wanted: Wanted) -> None:
    assert len(keys("table2", wanted)) == 2  # tokens of the last block, and sites
    assert len(keys("table1", wanted)) == 2  # of one block, and of two
    assert len(keys("fig1a", wanted)) == 1


@pytest.mark.parametrize("name", sorted(TABLES))
def test_no_table_passes_the_pictures_more_often_than_it_has_kinds_of_tokens(name: str, wanted: Wanted) -> None:
    assert len(keys(name, wanted)) <= 4
