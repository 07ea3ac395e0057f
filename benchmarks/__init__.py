"""Measurements against peers and floors, one module for each area; nothing here asserts a time."""
