"""The page of runs: a small HTTP server over the answers of verbs. It reads storage alone: no ray, no torch.

`server` speaks HTTP, `routes` says what is where, `access` who may see it, `reading` and `document` what is shown, `forgetting`
carries out what a form asks for.
"""
