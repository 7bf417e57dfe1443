"""A native implementation of MEMIT (arXiv 2210.07229): writes batches of facts into the weights of MLP layers."""
