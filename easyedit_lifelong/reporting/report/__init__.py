"""The report: reads run folders, and writes a page with scores, times, answers and settings."""
