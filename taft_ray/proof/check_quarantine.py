"""The check of `verify` that says which shards are out of the model, by damage or for want of a fit, and which will be."""

from __future__ import annotations

from taft_ray.proof.evidence import Evidence
from taft_ray.run.quarantine import quarantines

_RETRY = "taft-ray train {0} tries it again, taft-ray forget {0} --shard {1} --mode drop gives it up"
_MENDING = "taft-ray repair {0} makes it again, taft-ray forget {0} --shard {1} --mode drop gives it up"


def quarantine(run: Evidence) -> None:
    """No shard is in quarantine, or would be by what was found here."""
    run.checks["shards in quarantine"] = len(run.state.quarantined)
    for ill in quarantines(run.state):
        if not ill["objects"] and "reason" in ill:
            run.problems.append(
                f"shard {ill['shard']} could not be fitted and is in quarantine since {ill['since']}: {ill['reason']}; "
                + _RETRY.format(run.address, ill["shard"])
            )
            continue
        objects = ", ".join(f"{one['key']} ({one['problem']})" for one in ill["objects"])
        run.problems.append(
            f"shard {ill['shard']} is in quarantine since {ill['since']}, out of the model: {objects}; "
            f"{ill['samples_without_tokens']} of its samples have no tokens; {_MENDING.format(run.address, ill['shard'])}"
        )
    known = {shard.shard for shard in run.state.quarantined}
    for shard in sorted(run.damaged - known):
        run.problems.append(
            f"shard {shard} is damaged and not in quarantine yet: the next command that reads it takes it out of the model; "
            f"{_MENDING.format(run.address, shard)}"
        )
