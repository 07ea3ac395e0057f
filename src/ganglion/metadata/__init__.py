"""The record: what people and policies read about runs, projected from the events of their journals into a database.

`record` writes it, `queries` and `lineage` read it into the values of `views`, `frames` gives it to a notebook. Import
those modules; this package alone does not load the database library.
"""

__all__ = ["frames", "lineage", "queries", "record", "views"]
