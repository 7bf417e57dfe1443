"""GRACE (arXiv 2211.11031): a codebook at one layer, weights untouched."""
