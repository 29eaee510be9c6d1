"""Run the code of a notebook, cell by cell, as a notebook does: print what a cell prints, and the value of its last line.

python tests/support/notebooks.py FILE             runs it; ends with an error where a cell does
python tests/support/notebooks.py FILE --write     writes what was printed into FILE, too
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run(cell: str, names: dict[str, Any]) -> str:
    """The text that a cell prints, and that of its last expression where it is not None."""
    *body, last = ast.parse(cell).body
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            print("" if value is None else value, end="" if value is None else "\n")
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), names)
    return out.getvalue()


def main(path: str, *flags: str) -> None:
    file, names = Path(path), {"__name__": "__main__"}
    notebook = json.loads(file.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            told = run("".join(cell["source"]), names)
            print(told, end="", flush=True)
            lines = [line for line in told.splitlines(True) if "(raylet)" not in line]  # of Ray, not of the cell
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    if "--write" in flags:
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
