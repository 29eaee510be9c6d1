"""Decisions as pure functions of the spec and the ledger: no ray, no clock, no storage."""
