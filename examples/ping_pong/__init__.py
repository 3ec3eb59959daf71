"""The smallest service: an object that answers."""
