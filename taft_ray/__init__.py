"""taft_ray: fine-tune linearised vision transformers on shards that can be forgotten exactly."""

__version__ = "0.1.0"
