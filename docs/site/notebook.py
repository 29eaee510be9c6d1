"""A notebook as a page: its words, its code, and what the code printed when the notebook was written."""

from __future__ import annotations

import json
from collections.abc import Iterator


def page(notebook: str) -> str:
    """Markdown of a notebook's JSON."""
    return "\n\n".join(_parts(json.loads(notebook)["cells"])) + "\n"


def _parts(cells: list[dict[str, object]]) -> Iterator[str]:
    for cell in cells:
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
        else:
            yield f"```python\n{source}\n```"
            outputs = cell.get("outputs", [])
            assert isinstance(outputs, list)
            yield from (f"```text\n{_joined(one['text']).rstrip()}\n```" for one in outputs)


def _joined(lines: object) -> str:
    return "".join(lines) if isinstance(lines, list) else str(lines)
