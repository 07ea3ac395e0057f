"""Preparation: the records of a source written to the artifact store, once, by any number of processes.

`prepare` makes a dataset of a source, or finds the one that was made of it; `grow` adds what a source has got since;
`replay` adds what could not be read before and has been mended. A preparation that is killed goes on where it was.
"""
