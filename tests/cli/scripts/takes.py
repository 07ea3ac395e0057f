"""Takes a gigabyte."""

bytearray(2**30)
