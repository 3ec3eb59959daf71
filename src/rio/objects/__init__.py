"""The parts of an object: its class, its messages, its state, its lifecycle, references to it."""
