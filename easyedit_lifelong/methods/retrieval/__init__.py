"""Retrieval: edits are facts in a store. The nearest fact is put in front of a prompt; the weights do not change."""
