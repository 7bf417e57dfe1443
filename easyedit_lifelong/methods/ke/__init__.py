"""KE, the KnowledgeEditor (arXiv 2104.08164): a network that reads the edit gates the gradient of each weight."""
