"""Make one of the paper's tables or figures: `ray job submit --working-dir . -- python jobs/reproduce.py …`, with the options of `taft-ray`."""

from taft_ray.cli.reproduce import reproduce

if __name__ == "__main__":
    reproduce()
