"""UltraEdit (arXiv 2505.14679): a weight update from one backward pass, without subjects, statistics or training."""
