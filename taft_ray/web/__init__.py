"""The page of runs: a small HTTP server over the answers of verbs. It reads storage alone: no ray, no torch.

`server` speaks HTTP. `routes` says what is where, and `access` who may see it. `reading` and `document` make what is shown.
`forgetting` carries out a form.
"""
