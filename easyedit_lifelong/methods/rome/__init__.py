"""A native implementation of ROME (arXiv 2202.05262): a rank-one update of one MLP layer for each fact."""
