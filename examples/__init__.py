"""Programs that use rio, each written as a user would write it."""
