"""What a run can be asked and told, one file per verb. Ray is imported where a verb needs it, and not before."""
