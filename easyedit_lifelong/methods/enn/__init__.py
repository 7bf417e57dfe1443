"""ENN, editable neural networks (arXiv 2004.00345): weights are trained so that a gradient step is a good edit."""
