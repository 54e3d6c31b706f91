"""What Ray raises, as a user is to read it."""
