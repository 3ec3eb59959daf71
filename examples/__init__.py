"""Programs that use rio, each as a user would write it."""
