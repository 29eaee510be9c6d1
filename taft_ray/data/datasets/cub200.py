"""CUB-200-2011, birds (Wah et al. 2011): lists that number pictures and classes, and say which pictures train."""

from collections.abc import Iterable

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.errors import DataError

_PICTURES, _SPLIT, _LABELS, _CLASSES = "images.txt", "train_test_split.txt", "image_class_labels.txt", "classes.txt"


class Cub200(Layout):
    name = "cub-200"
    title = "CUB-200"
    holds = "images, images.txt, train_test_split.txt, image_class_labels.txt and classes.txt (CUB_200_2011)"
    splits = ("train", "test")

    def classes(self, root: Root) -> list[str]:
        root.need(_PICTURES, _SPLIT, _LABELS, _CLASSES)
        return [name for _, name in root.fields(_CLASSES, 2)]

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        names = dict(root.fields(_CLASSES, 2))
        labels, trains = dict(root.fields(_LABELS, 2)), dict(root.fields(_SPLIT, 2))
        for number, relative in root.fields(_PICTURES, 2):
            for known, file in ((labels, _LABELS), (trains, _SPLIT)):
                if number not in known:
                    raise DataError(f"{file} in {root.place} does not have picture {number}, {relative}")
            if labels[number] not in names:
                raise DataError(f"{_CLASSES} in {root.place} does not have class {labels[number]}, of {relative}")
            if (trains[number] == "1") == (split == "train"):
                yield Listed(f"images/{relative}", names[labels[number]])
