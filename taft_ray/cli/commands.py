"""The commands by name, each with its line of the program's help; the module of one is imported when it is called.

`taft-ray --help` needs none of them, and a command needs no other's.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any, NamedTuple

import click


class Line(NamedTuple):
    """Where a command is, and the first sentence of its own help."""

    module: str
    function: str
    help: str


LINES = {
    "audit": Line(
        "proof", "audit", "Membership-inference attack on what RUN has forgotten; exits 1 when RUN remembers."
    ),
    "check": Line(
        "released",
        "check",
        "Whether an exported FILE is RUN's current model; exits 0, 3 when superseded, 1 when recalled or not RUN's.",
    ),
    "demo": Line(
        "run", "demo", "Train, compose, forget, verify and report on digits, offline, with the embedded model."
    ),
    "destroy": Line("run", "destroy", "Remove RUN, older versions too; tombstones beside it stay."),
    "destroy-key": Line(
        "proof",
        "destroy_key",
        "Destroy RUN's key of the id hashes: nobody can tell any more whom a tombstone names, nor read data in.",
    ),
    "doctor": Line(
        "doctor", "doctor", "Find out what would go wrong with runs here, or in RUN; exits 1 when something would."
    ),
    "dossier": Line(
        "dossier",
        "dossier",
        "Write FOLDER about RUN for a regulator or a customer; exits 1 when something is wrong or cannot be read.",
    ),
    "estimate": Line("forgetting", "estimate", "Estimate what a forget would touch and take; nothing happens."),
    "evaluate": Line("run", "evaluate", "Accuracy of RUN's composed model on DATA."),
    "export": Line("run", "export_command", "Write RUN's composed model as one file that runs without taft_ray."),
    "forget": Line("forgetting", "forget", "Forget samples of RUN; answers with the certificate."),
    "gc": Line("run", "gc", "Remove what killed processes left in RUN and nothing refers to."),
    "list": Line("run", "list_command", "The runs at URI: that place itself, and the folders right under it."),
    "page": Line(
        "page",
        "page",
        "A page of the runs at URI, live in a browser, from their storage alone; until it is interrupted.",
    ),
    "predict": Line(
        "pictures", "predict", "The classes of PICTURES (files, folders, Parquet, tars) by RUN's composed model."
    ),
    "privacy": Line("privacy", "privacy", "The privacy that RUN has spent, by shard, beside its budget."),
    "recalls": Line(
        "released",
        "recalls",
        "The files that left RUN's house, and which hold what was forgotten since; exits 1 when a notice was not taken.",
    ),
    "release": Line("released", "release", "When a newer model of RUN may be published; --after sets it."),
    "repair": Line(
        "repair", "repair", "Make again what is damaged or missing in RUN; exits 1 while a shard stays in quarantine."
    ),
    "report": Line("run", "report_command", "Write RUN's report, a page; several runs are put side by side."),
    "reproduce": Line(
        "reproduce",
        "reproduce",
        "Make TABLE, one of the paper's tables or figures, on any data; cells and tables are kept in OUT.",
    ),
    "serve": Line(
        "serve",
        "serve",
        "Answer requests with the models of RUN..., each [NAME=]RUN[?owners=A,B&compose=MODE], until it is interrupted.",
    ),
    "retention": Line("proof", "retention", "Until when RUN keeps the key of its id hashes; --until sets it."),
    "sign": Line("forgetting", "sign", "Sign a certificate of RUN; answers with the certificate and its signature."),
    "status": Line("run", "status", "Where RUN stands."),
    "sweep": Line(
        "sweep",
        "sweep",
        "Try settings of RUN's deltas on the tokens that it has cached; writes the best as a spec for train --spec.",
    ),
    "train": Line("run", "train", "Train every shard of RUN that has no delta yet, and compose."),
    "tune": Line(
        "tune",
        "tune",
        "Choose settings of an additive RUN's model from its sums and rows, in seconds.",
    ),
    "verify": Line(
        "proof",
        "verify",
        "Check TARGET, a run or a certificate's JSON, from storage alone; exits 1 when something is wrong.",
    ),
}


GROUPS = {
    "Make a run": ("train", "repair", "sweep", "tune"),
    "Use it": ("predict", "evaluate", "serve", "export", "release", "recalls", "check"),
    "Look at it": ("status", "list", "page", "report", "privacy", "dossier", "doctor"),
    "Forget": ("estimate", "forget", "sign", "audit", "verify"),
    "End it": ("gc", "retention", "destroy-key", "destroy"),
    "Try it, and the paper's tables": ("demo", "reproduce"),
}


EXAMPLES = {
    "audit": "audit runs/pets --data pets/train --never-seen pets/other",
    "check": "check pets.pt2 --run runs/pets",
    "demo": "demo --folder /tmp/demo",
    "destroy": "destroy runs/pets --yes",
    "destroy-key": "destroy-key runs/pets --yes",
    "doctor": "doctor s3://bucket/runs/pets",
    "dossier": "dossier runs/pets pets-dossier",
    "estimate": "estimate runs/pets --ids cats/17.jpg --mode retrain",
    "evaluate": "evaluate runs/pets --data pets/test --predictions pets.csv",
    "export": "export runs/pets --output pets.pt2",
    "forget": "forget runs/pets --ids cats/17.jpg --mode retrain",
    "gc": "gc runs/pets",
    "list": "list runs",
    "page": "page runs --port 8550",
    "predict": "predict runs/pets new/ --output predictions.csv",
    "privacy": "privacy runs/pets --statement privacy.json",
    "recalls": "recalls runs/pets --notify https://hospital.example/recalls --sign key.pem",
    "release": "release runs/pets --after 10",
    "repair": "repair runs/pets --data pets/train",
    "report": "report runs/pets",
    "reproduce": "reproduce table1 tables --data pets/train --eval pets/test",
    "serve": "serve runs/pets --replicas 2",
    "retention": "retention runs/pets --until 2027-06-30",
    "sign": "sign runs/pets --request 3f3983c977fe8608 --key key.pem",
    "status": "status runs/pets",
    "sweep": "sweep runs/pets --vary penalty=0.001,0.01,0.1",
    "train": "train runs/pets --data pets/train --model deit_tiny_patch16_224 --shards 50",
    "tune": "tune runs/pets --sizes 512,1024,2048",
    "verify": "verify runs/pets",
}


class Commands(UserDict[str, Any]):
    """The commands of LINES, each imported when it is asked for."""

    def __init__(self) -> None:
        super().__init__(LINES)

    def __getitem__(self, name: str) -> click.Command:
        line: Line = self.data[name]
        command: click.Command = getattr(import_module(f"taft_ray.cli.{line.module}"), line.function)
        command.epilog = f"\b\nExample:\n  taft-ray {EXAMPLES[name]}"
        return command


class Program(click.Group):
    """A group whose list of commands is made of LINES alone."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, LINES[name].help) for name in names])
        formatter.write_paragraph()
        formatter.write_text("taft-ray COMMAND --help has the options of each, and an example.")
