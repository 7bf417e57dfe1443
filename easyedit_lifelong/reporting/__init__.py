"""What people look at: console tables, progress, reports and trackers."""
