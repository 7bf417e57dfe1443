"""Lifelong editing methods."""
