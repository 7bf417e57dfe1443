"""Serve a model whose edits change while it answers: versions of its edits, an engine, and an HTTP API."""
