"""The peers of the data benchmarks: each a program that runs in an environment of its own."""
