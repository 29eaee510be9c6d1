"""Try settings on a run's cached tokens: `ray job submit --working-dir . -- python jobs/sweep.py …`, with the options of `taft-ray`."""

from taft_ray.cli.sweep import sweep

if __name__ == "__main__":
    sweep()
