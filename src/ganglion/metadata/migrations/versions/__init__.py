"""One module for each revision; its name carries the number."""
