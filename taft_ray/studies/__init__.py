"""Sweeps and the paper's tables: trials and cells on workers of a cluster, kept in storage."""
