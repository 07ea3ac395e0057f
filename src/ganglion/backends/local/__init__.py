"""The embedded default: processes on this machine, forked from a warm zygote, nothing to install or to start."""
