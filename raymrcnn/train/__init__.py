"""The training procedure: loop, optimizer, checkpoints, Ray wiring."""
