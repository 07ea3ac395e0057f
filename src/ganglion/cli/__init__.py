"""The command line: `ganglion`, one module for each verb."""
