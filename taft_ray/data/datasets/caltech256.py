"""Caltech-256 (Griffin, Holub, Perona 2007): ``<number>.<class>/<number>_<picture>.jpg``.

It has no published split. The customary one takes 60 pictures of each class to train on, here the first 60 of them. The 257th
folder, clutter, is no category and is left out.
"""

import re
from collections.abc import Iterable

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.data.image_folder import is_image
from taft_ray.errors import DataError

_FOLDER = re.compile(r"\d{3}\..+")
_CLUTTER = "257.clutter"
_TRAINED_ON = 60


class Caltech256(Layout):
    name = "caltech-256"
    title = "Caltech-256"
    holds = "001.ak47, 002.american-flag, … (256_ObjectCategories)"
    splits = ("train", "test", "all")

    def classes(self, root: Root) -> list[str]:
        folders = {relative.split("/", 1)[0] for relative in root.files if "/" in relative}
        found = sorted(folder for folder in folders if _FOLDER.fullmatch(folder) and folder != _CLUTTER)
        if not found:
            raise DataError(
                f"{root.place} is not {self.title}: no folder is called like 001.ak47; expected {self.holds}"
            )
        return found

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        by_class: dict[str, list[str]] = {label: [] for label in self.classes(root)}
        for relative in sorted(root.files):
            label = relative.split("/", 1)[0]
            if label in by_class and "/." not in relative:
                by_class[label].append(relative)
        for label, files in by_class.items():
            pictures = [name for name in files if is_image(name)]
            chosen = {"train": pictures[:_TRAINED_ON], "test": pictures[_TRAINED_ON:], "all": pictures}[split]
            if split != "test":  # what is no picture is accounted for as one that is rejected
                chosen = [*chosen, *(name for name in files if not is_image(name))]
            yield from (Listed(relative, label) for relative in chosen)
