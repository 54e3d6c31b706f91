"""The prediction procedure: sources, committed results, Ray wiring."""
