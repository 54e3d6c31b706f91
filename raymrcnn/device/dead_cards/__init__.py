"""Cards that do no work."""
