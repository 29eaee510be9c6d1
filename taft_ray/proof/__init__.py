"""Proof that a run has forgotten: certificates, signatures, and checks from storage alone. No ray."""
