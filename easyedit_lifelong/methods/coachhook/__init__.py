"""CoachHook (arXiv 2403.05330): consecutive batches, kept in hook layers that decide token by token."""
