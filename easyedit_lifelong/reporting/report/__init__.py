"""A run's folder as a page to look at: what it scored, what it cost, what it says now, and how it was made."""
