"""From a folder of pictures to a certificate.

    python docs/examples/pets_folder.py FOLDER

The folder has a folder per class, as pictures of pets often come. An image folder's ids are paths below it, so a picture's
path is what a request names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pictures import image_folder

import taft_ray as tr
from taft_ray.embedded import EMBEDDED_NAME


def main(folder: Path) -> None:
    train, test = image_folder(folder / "pets")
    run = tr.Run(folder / "run")
    with tr.ray_session():  # one Ray for all steps
        run.train(train, model=EMBEDDED_NAME, shards=10)
        print(f"accuracy {run.evaluate(test).accuracy:.3f}")

        gone = sorted(path.relative_to(train).as_posix() for path in (train / "three").iterdir())[:2]
        print(f"{gone} cost {run.estimate(ids=gone).samples_to_retrain} pictures of training")
        certificate = run.forget(ids=gone)
        print(f"accuracy {run.evaluate(test).accuracy:.3f} without them")

    checked = run.verify()
    assert checked.ok, checked.problems
    (folder / "certificate.json").write_text(json.dumps(certificate.to_json(), indent=1))
    print(f"certificate {certificate.digest[:16]} in {folder / 'certificate.json'}")
    print(f"report {run.report().page}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
