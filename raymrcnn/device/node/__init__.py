"""What a node of a cluster tells Ray of its cards."""
