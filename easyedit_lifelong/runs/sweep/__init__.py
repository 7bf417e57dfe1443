"""Sweeps: runs of all combinations of methods, models, data and seeds, executed by a launcher."""
