"""Training of GRACE's values."""
