"""The help of `train` in sections, by what options mean something to (`plans.solver_options`)."""

from __future__ import annotations

import click

from taft_ray.additive.options import ADDITIVE
from taft_ray.plans.privacy import OWN
from taft_ray.plans.solver_options import OF_BOTH, OF_FITS, OF_SOLVER

SECTIONS = {
    "Ridge and adam, which fit a tangent model per shard": OF_FITS | {"monolithic"},
    "Ridge alone": OF_SOLVER["ridge"],
    "Adam alone": OF_SOLVER["adam"],
    "Private training (--private)": OWN | {"private"},
    "Additive alone (--solver or --compose additive)": OF_SOLVER[ADDITIVE] | OF_BOTH,
}
EVERY = "Options of every run"


class Sectioned(click.Command):
    """A command whose options of one kind of run are listed apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        special = frozenset().union(*SECTIONS.values())
        options = [option for option in self.get_params(ctx) if option.get_help_record(ctx) is not None]
        everybody = frozenset(str(option.name) for option in options) - special
        for title, names in {EVERY: everybody, **SECTIONS}.items():
            records = [option.get_help_record(ctx) for option in options if option.name in names]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
        formatter.write_text(
            "Refused in a run of another kind: the options of fits in an additive one, and the reverse."
        )
