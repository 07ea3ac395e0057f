"""Sources: one module for each format or place that records come from."""
