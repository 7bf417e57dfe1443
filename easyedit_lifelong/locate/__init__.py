"""Locate facts in a model: causal tracing, severed paths, the layers to edit, state changes, attribution."""
