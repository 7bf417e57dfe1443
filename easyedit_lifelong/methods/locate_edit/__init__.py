"""The code that MEMIT-like methods share: facts in contexts, target vectors, keys, and updates of MLP weights."""
