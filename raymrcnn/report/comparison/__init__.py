"""Several runs and predictions side by side, on one page."""
