"""MEMIT (arXiv 2210.07229), without EasyEdit: batches of facts into the weights of a few MLP layers."""
