"""Locate facts in a model: causal tracing, severed paths, and the layers to edit."""
