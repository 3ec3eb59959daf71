"""Objects that aggregate the points of a metric, and objects that gather metrics by tag."""
