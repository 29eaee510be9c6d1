"""The systems that the paper compares, on the same tokens and the same shards. Needs neither ray nor files.

A system is a network that shards are fitted with (`tangent`, or `nonlinear` for NLFT) and a readout of what they became:

    TAFT          tangent, mean           the paper's composition: the mean of the shards' Δw
    TAFT + Gram   tangent, gram           composed layer by layer
    ensemble      tangent, average        the mean of the shards' outputs: equal to `mean` up to rounding
    Model Soup    nonlinear, mean         the mean of the shards' weights
    SISA          nonlinear, vote         each shard's network answers, the majority wins; `average` adds up what they answer
    NLFT, FC      one shard; FC trains the head alone
    RegMean, ++   nonlinear, merged layer by layer (`regmean.py`)

Systems that train no network are in `frozen.py` and `head2toe.py`.
"""

from taft_ray.systems.cell import NETWORKS, ON_SITES, Cell
from taft_ray.systems.forgetting import measure_forgetting
from taft_ray.systems.measure import TokenSet, measure
from taft_ray.systems.measure_private import measure_private, measure_private_sites
from taft_ray.systems.measure_rows import measure_frozen, measure_sites
from taft_ray.systems.nonlinear import NonLinear
from taft_ray.systems.paper import TABLES, table
from taft_ray.systems.points import Point, Table, Wanted
from taft_ray.systems.readouts import READOUTS, Member, Readouts, average, vote
from taft_ray.systems.summary import summarise

__all__ = [
    "NETWORKS",
    "ON_SITES",
    "READOUTS",
    "TABLES",
    "Cell",
    "Member",
    "NonLinear",
    "Point",
    "Readouts",
    "Table",
    "TokenSet",
    "Wanted",
    "average",
    "measure",
    "measure_forgetting",
    "measure_frozen",
    "measure_private",
    "measure_private_sites",
    "measure_sites",
    "summarise",
    "table",
    "vote",
]
