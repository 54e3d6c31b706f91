"""Runs that outlive a card."""
