"""One node of the cluster."""
