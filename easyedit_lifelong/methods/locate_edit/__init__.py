"""What MEMIT-like methods share: facts in contexts, target vectors, keys, the solve, and updates of MLP weights."""
