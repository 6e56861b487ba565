"""Training losses, one file a paper."""
