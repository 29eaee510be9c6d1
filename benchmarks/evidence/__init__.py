"""RESULTS.md and benchmarks/findings.md, made of what `taft-ray reproduce` measured.

* results: reads benchmarks/results/, and says the figures that a page refers to
* systems: the systems that are compared, and their accuracy over shards
* sharding: does sharding cost accuracy?
* forgetting: what does a forget cost?
* privacy: what does privacy cost?
* others: when is another system better?
* index: every table, with its files and its command
* drawing: one style for the four pictures
"""
