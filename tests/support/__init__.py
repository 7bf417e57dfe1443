"""What several tests share: tiny models, edits, dataset records, stand-ins."""
