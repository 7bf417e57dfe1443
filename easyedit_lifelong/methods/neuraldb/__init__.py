"""NeuralDB (arXiv 2507.18028): edits in a table of keys and residuals, behind a gate."""
