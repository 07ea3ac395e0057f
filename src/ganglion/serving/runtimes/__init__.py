"""The libraries that execute models, one module each; `ganglion.serving.runtime` imports them by name."""
