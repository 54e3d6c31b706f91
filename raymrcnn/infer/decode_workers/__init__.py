"""Processes that only fetch and decode."""
