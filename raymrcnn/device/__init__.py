"""What a card is: kinds of accelerator, and what differs between them."""
