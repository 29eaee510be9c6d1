"""Erasure requests of patients, with deadlines, signed certificates and a dossier.

    python docs/examples/hospital.py FOLDER

Each picture has an owner. Requests that can wait are gathered, so that their shards are trained once.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pictures import patients

import taft_ray as tr
from taft_ray.embedded import EMBEDDED_NAME


def signing_key(folder: Path) -> Path:
    """A new Ed25519 key, as `openssl genpkey -algorithm ed25519` makes it. Keep yours away from the run."""
    key = Ed25519PrivateKey.generate()
    file = folder / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    return file


def main(folder: Path) -> None:
    train, test = patients(folder / "data")
    key = signing_key(folder)
    run = tr.Run(folder / "run")
    with tr.ray_session():
        run.train(train, model=EMBEDDED_NAME, shards=10, assignment="grouped")  # a patient is in one shard
        print(f"accuracy {run.evaluate(test).accuracy:.3f}")

        promises = [run.forget(owners=[who], deadline=timedelta(days=30)) for who in ("writer-03", "writer-17")]
        for promise in promises:
            print(f"request {promise.request} waits until {promise.runs_at}")
        print(f"{len(run.forget_due(sign=key).certificates)} are due today")  # a daily job calls this

        certificate = run.forget(owners=["writer-08"], sign=key)  # what is urgent does not wait
        print(f"{certificate.samples} pictures left, certificate {certificate.digest[:16]}")
        print(f"accuracy {run.evaluate(test).accuracy:.3f} without them")

    assert run.verify().ok
    dossier = run.dossier(folder / "dossier", to="authority.example")
    print(f"dossier in {dossier.folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
