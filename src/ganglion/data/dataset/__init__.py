"""Prepared datasets as they lie in the store, and how records are taken from them."""
