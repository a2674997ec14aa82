"""Commands, rows and results to bytes and back, with a format version in front of whatever is kept."""
