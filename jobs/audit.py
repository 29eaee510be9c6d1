"""Attack what a run has forgotten: `ray job submit --working-dir . -- python jobs/audit.py …`, with the options of `taft-ray`."""

from taft_ray.cli.proof import audit

if __name__ == "__main__":
    audit()
