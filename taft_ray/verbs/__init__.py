"""The verbs of a run, one file each. Ray is imported where a verb needs it, and not before."""
