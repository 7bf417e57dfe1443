"""What every editing method can use: editors on a model, rollback, records, results, subject positions."""
