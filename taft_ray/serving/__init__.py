"""Serving: models that forget, on replicas of Ray Serve."""
