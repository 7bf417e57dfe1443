"""What GRACE by subjects needs for a model: where subjects are found, where edits answer, and how far the gate goes."""
