"""Calibration of GRACE by subjects: where subjects are found, where edits answer, how wide the gate is."""
