"""The Metrics dock: a table of candidates, a curve over slices."""
