"""Published data sets as they are unpacked, named ``<name>:<path or URI>[?split=<split>]``.

Each is a list of pictures with their classes, read from the data set's own split files; the pictures stay where they are. The
first split of a data set is the default.
"""

from collections.abc import Callable

from taft_ray.data.datasets.aircraft import Aircraft
from taft_ray.data.datasets.caltech256 import Caltech256
from taft_ray.data.datasets.cars import Cars
from taft_ray.data.datasets.cub200 import Cub200
from taft_ray.data.datasets.dogs import Dogs
from taft_ray.data.datasets.layout import Layout
from taft_ray.data.datasets.mit67 import Mit67
from taft_ray.data.datasets.named import Named
from taft_ray.data.datasets.pets import Pets
from taft_ray.data.source_file import Source

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (Caltech256(), Mit67(), Pets(), Dogs(), Cub200(), Aircraft(), Cars())
}


def is_named(uri: str) -> bool:
    """Whether this names a published data set and not a place alone."""
    return uri.partition(":")[0] in LAYOUTS


def open_dataset(uri: str) -> Source:
    """The pictures of a split with their classes; DataError where the folder is not that data set, whole.

    Guarantees: every picture that the split lists is in ``files`` once, with its class; ``classes`` is the same for every split.
    """
    named = Named.parse(uri)
    return LAYOUTS[named.dataset].open(named)


def absolute(uri: str, resolve: Callable[[str], str]) -> str:
    """The same data set with its place as every process names it; ``resolve`` does that for a path or URI."""
    return str(Named.parse(uri).at(resolve))


__all__ = ["LAYOUTS", "Layout", "Named", "absolute", "is_named", "open_dataset"]
