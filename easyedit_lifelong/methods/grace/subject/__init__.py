"""GRACE edits that are found by their subjects."""
