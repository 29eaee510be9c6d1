"""Stanford Dogs (Khosla et al. 2011): ``Images/<synset>-<breed>/<picture>.jpg``, and a MATLAB list of each split."""

from collections.abc import Iterable

import numpy as np

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.errors import DataError


class Dogs(Layout):
    name = "stanford-dogs"
    title = "Stanford Dogs"
    holds = "Images, train_list.mat and test_list.mat (the last two from lists.tar; a folder lists will do)"
    splits = ("train", "test")

    def classes(self, root: Root) -> list[str]:
        return sorted({picture.label for split in self.splits for picture in self.listed(root, split)})

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        name = f"{split}_list.mat"
        where = f"lists/{name}" if f"lists/{name}" in root.files else name
        (pictures,) = root.matlab(where, "file_list")
        for relative in np.atleast_1d(pictures).tolist():
            label, slash, _ = str(relative).partition("/")
            if not slash:
                raise DataError(f"{where} in {root.place}: expected <breed>/<picture>, got {relative!r}")
            yield Listed(f"Images/{relative}", label)
