"""What several test modules share: tiny models, edits, dataset records, stubs."""
