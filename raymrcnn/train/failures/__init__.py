"""What ends a group of workers."""
