"""Alembic migrations of the record, applied when it is opened; written by hand, one file for each revision."""
