"""Ray workers on MLU cards."""
