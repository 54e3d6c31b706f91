"""Weight files in, state dicts out."""
