"""MEND (arXiv 2110.11309): a trained network turns the gradient of an edit into an update of the weights."""
