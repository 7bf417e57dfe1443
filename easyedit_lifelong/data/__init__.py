"""Requests, dataset readers and sample facts."""
