"""Metrics that aggregate points, and tags that gather metrics."""
