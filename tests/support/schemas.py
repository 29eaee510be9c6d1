"""The JSON Schemas of all answers, from their types.

PYTHONPATH=. python tests/support/schemas.py      writes taft_ray/answers/schemas/; a test compares
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from taft_ray import answers

FOLDER = Path(answers.__file__).parent / "schemas"


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each answer of a command, by its name."""
    kinds = sorted(
        {kind for several in answers.OF_COMMANDS.values() for kind in several}, key=lambda kind: kind.__name__
    )
    return {kind.__name__: {"$schema": DIALECT, **TypeAdapter(kind).json_schema()} for kind in kinds}


DIALECT = "https://json-schema.org/draft/2020-12/schema"

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
