"""Edit requests, readers of dataset files, and sample facts."""
