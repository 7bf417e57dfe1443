"""Metrics, and the scorers that compute them in batches."""
