"""Data: ours beside the peers and the floors; `python -m benchmarks.data`."""
