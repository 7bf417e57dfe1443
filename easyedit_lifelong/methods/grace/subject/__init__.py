"""GRACE edits whose keys are taken at the last token of their subject, not of their prompt."""
