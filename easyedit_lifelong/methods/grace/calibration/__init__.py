"""Calibration of GRACE by subjects: choice of the key layer, its distance and radius, the answer layer and its gate."""
