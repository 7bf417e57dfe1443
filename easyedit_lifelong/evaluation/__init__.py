"""Metrics and batched scoring."""
