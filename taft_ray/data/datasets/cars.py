"""Stanford Cars (Krause et al. 2013): ``cars_train`` and ``cars_test``, and MATLAB lists of class numbers from 1 on."""

from collections.abc import Iterable

import numpy as np

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.errors import DataError

_META = "devkit/cars_meta.mat"
_ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


class Cars(Layout):
    name = "stanford-cars"
    title = "Stanford Cars"
    holds = "cars_train, cars_test and devkit; the test split's cars_test_annos_withlabels.mat in it or beside it"
    splits = ("train", "test")

    def classes(self, root: Root) -> list[str]:
        (names,) = root.matlab(_META, "class_names")
        return [str(name) for name in np.atleast_1d(names).tolist()]

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        classes, name = self.classes(root), _ANNOTATIONS[split]
        where = name if name in root.files else f"devkit/{name}"
        (annotations,) = root.matlab(where, "annotations")
        annotations = np.atleast_1d(annotations)
        lacking = {"fname", "class"} - set(annotations.dtype.names or ())
        if lacking:  # cars_test_annos.mat, which was published first, has no classes
            raise DataError(
                f"{where} in {root.place} does not have {sorted(lacking)} of the pictures; give the list with labels"
            )
        for picture, number in zip(annotations["fname"].tolist(), annotations["class"].tolist(), strict=True):
            if not 1 <= int(number) <= len(classes):
                raise DataError(
                    f"{where} in {root.place}: {picture} is of class {number}, and there are {len(classes)}"
                )
            yield Listed(f"cars_{split}/{picture}", classes[int(number) - 1])
