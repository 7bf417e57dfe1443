"""The code that methods share which write updates into weights in batches: history, rollback, saved batches."""
