"""CoachHook (arXiv 2403.05330): consecutive batches of edits in hook layers, which decide if they act on a token."""
