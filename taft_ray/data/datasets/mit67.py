"""MIT-67, indoor scenes (Quattoni, Torralba 2009): ``Images/<class>/<picture>``, and a list of each split."""

from collections.abc import Iterable

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.errors import DataError

_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}


class Mit67(Layout):
    name = "mit-67"
    title = "MIT-67"
    holds = "Images, TrainImages.txt and TestImages.txt"
    splits = ("train", "test")

    def classes(self, root: Root) -> list[str]:
        root.need(*_LISTS.values())
        return sorted({picture.label for split in self.splits for picture in self.listed(root, split)})

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        for line in root.lines(_LISTS[split]):
            label, slash, _ = line.partition("/")
            if not slash:
                raise DataError(f"{_LISTS[split]} in {root.place}: expected <class>/<picture>, got {line!r}")
            yield Listed(f"Images/{line}", label)
