"""Choose hyperparameters of any method for one model: a staged search over trial edits of held-out records."""
