"""Accuracy of a run's composed model: `ray job submit --working-dir . -- python jobs/evaluate.py …`, with the options of `taft-ray`."""

from taft_ray.cli.run import evaluate

if __name__ == "__main__":
    evaluate()
