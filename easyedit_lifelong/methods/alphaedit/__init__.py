"""AlphaEdit (arXiv 2410.02355): MEMIT whose updates are confined to the null space of the keys of ordinary text."""
