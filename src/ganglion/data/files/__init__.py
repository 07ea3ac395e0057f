"""Files: the only way to bytes, here or elsewhere, with patience for what is away."""
