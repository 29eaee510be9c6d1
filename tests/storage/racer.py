"""A process that races others for ledger numbers: ``python racer.py URI NAME GO FACTS``; prints the numbers it won.

It commits its facts one after the other, each again after every conflict and without a pause: the hardest race.
"""

import sys
import time
from pathlib import Path

from taft_ray.errors import CommitConflict
from taft_ray.storage import Ledger, Store

uri, name, go, facts = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
if "torch" in sys.modules or "ray" in sys.modules:
    sys.exit("storage must not need torch or ray")
ledger = Ledger(Store(uri))
ledger.refresh()
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
won: list[int] = []
while len(won) < facts:
    try:
        won.append(ledger.append("race", {"by": name}, op=f"{name}-{len(won)}").number)
    except CommitConflict:
        ledger.refresh()
print(*won, flush=True)
