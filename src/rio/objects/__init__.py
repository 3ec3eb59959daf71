"""What an object is made of: its class, its messages, its state, its lifecycle."""
