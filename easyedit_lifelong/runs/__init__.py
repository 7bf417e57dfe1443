"""Loops that edit a model for long, and the folders they write."""
