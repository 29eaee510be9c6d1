"""Oxford-IIIT Pets (Parkhi et al. 2012): ``images/<breed>_<number>.jpg``; the lists also number breed and species."""

from collections.abc import Iterable

from taft_ray.data.datasets.layout import Layout, Listed, Root
from taft_ray.errors import DataError

_FIELDS = 4  # picture, breed's number, species, breed's number within the species


class Pets(Layout):
    name = "oxford-pets"
    title = "Oxford Pets"
    holds = "images and annotations"
    splits = ("trainval", "test")

    def classes(self, root: Root) -> list[str]:
        root.need(*(_list(split) for split in self.splits))
        numbers: dict[str, str] = {}
        for split in self.splits:
            for picture, number, *_ in root.fields(_list(split), _FIELDS):
                breed = _breed(picture)
                if numbers.setdefault(number, breed) != breed:
                    raise DataError(
                        f"{_list(split)} in {root.place}: class {number} is {numbers[number]!r}, and {breed!r} for {picture}"
                    )
        try:
            return [numbers[number] for number in sorted(numbers, key=int)]
        except ValueError as error:
            raise DataError(f"{_list('trainval')} in {root.place}: a class is no number: {error}") from error

    def listed(self, root: Root, split: str) -> Iterable[Listed]:
        for picture, *_ in root.fields(_list(split), _FIELDS):
            yield Listed(f"images/{picture}.jpg", _breed(picture))


def _list(split: str) -> str:
    return f"annotations/{split}.txt"


def _breed(picture: str) -> str:
    return picture.rpartition("_")[0]
