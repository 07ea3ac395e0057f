"""Parts of a dataset: splits, folds and selections, as plain data."""
