"""A process that races others for ledger numbers: ``python racer.py URI NAME GO COUNT``; prints the numbers it won."""

import sys
import time
from pathlib import Path

from taft_ray.errors import CommitConflict
from taft_ray.storage import Ledger, Store

uri, name, go, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
ledger = Ledger(Store(uri))
ledger.refresh()
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
won = []
while len(ledger.known) < count:
    try:
        won.append(ledger.append("race", {"by": name}, op=f"{name}-{len(ledger.known)}").number)
    except CommitConflict:
        ledger.refresh()
print(*won, flush=True)
