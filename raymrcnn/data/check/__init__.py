"""What verification looks at: entries, masks, pictures; and how it mends them."""
