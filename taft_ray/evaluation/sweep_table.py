"""The trials of a sweep as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

MEASURES = ("status", "accuracy", "effort", "seconds")


def sweep_csv(summary: Mapping[str, Any]) -> str:
    """A row per trial: number, a column per setting (empty where it has no meaning), and what was measured."""
    settings = settings_of(summary)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", *settings, *MEASURES, "error"])
    for trial in summary["trials"]:
        values = [trial["settings"].get(name, "") for name in settings]
        writer.writerow([trial["number"], *values, *(trial.get(name, "") for name in (*MEASURES, "error"))])
    return out.getvalue()


def settings_of(summary: Mapping[str, Any]) -> list[str]:
    """The names of all settings, in the order in which trials first had them."""
    return list(dict.fromkeys(name for trial in summary["trials"] for name in trial["settings"]))
