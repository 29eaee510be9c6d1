"""FGVC-Aircraft (Maji et al. 2013), by variant: ``images/<number>.jpg``, and a list of each split."""

from collections.abc import Iterable

from taft_ray.data.datasets.layout import Layout, Listed, Root


class Aircraft(Layout):
    name = "fgvc-aircraft"
    title = "FGVC-Aircraft"
    holds = "images, variants.txt and images_variant_train.txt (fgvc-aircraft-2013b/data)"
    splits = ("trainval", "train", "val", "test")

    def classes(self, root: Root) -> list[str]:
        return root.lines("variants.txt")

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        for number, variant in root.fields(f"images_variant_{split}.txt", 2):
            yield Listed(f"images/{number}.jpg", variant)
