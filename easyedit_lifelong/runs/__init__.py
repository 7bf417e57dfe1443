"""The loops of lifelong and consecutive editing, and the run folders that they write."""
