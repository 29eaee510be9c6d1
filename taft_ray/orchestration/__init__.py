"""The only room that imports ray: the verbs, the feature pool, lanes, shard workers and the composer."""
