"""Output for people: console tables, progress, report pages and trackers."""
