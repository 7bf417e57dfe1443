"""GRACE (arXiv 2211.11031): a codebook at one layer of a model whose weights stay unchanged."""
