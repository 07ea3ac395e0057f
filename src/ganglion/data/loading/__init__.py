"""Loading: which records a global batch has, and the threads and processes that make it ahead of time."""
