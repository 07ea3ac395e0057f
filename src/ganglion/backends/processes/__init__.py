"""Member processes on one machine, with true evidence of their ends: what the backends that start processes share."""
