"""Answers that have rows, as tables of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from taft_ray.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


class HasRows:
    """An answer with rows. ROWS: the fields that have them; the first is what the answer is of."""

    ROWS: ClassVar[tuple[str, ...]]

    def to_pandas(self, rows: str | None = None) -> pd.DataFrame:
        """A line per row. rows: which, where the answer has several kinds; UsageError for another."""
        import pandas as pd

        wanted = rows or self.ROWS[0]
        if wanted not in self.ROWS:
            raise UsageError(f"rows={rows!r}: expected one of {', '.join(self.ROWS)}")
        return pd.DataFrame([self._row(one) for one in getattr(self, wanted) or ()])

    def _row(self, one: object) -> dict[str, object]:
        return one.to_json() if hasattr(one, "to_json") else dict(one)  # type: ignore[call-overload]  # a mapping
