"""Train every shard that has no delta yet, and compose: `ray job submit --working-dir . -- python jobs/shard_train.py …`, with the options of `taft-ray`."""

from taft_ray.cli.run import train

if __name__ == "__main__":
    train()
