"""Records: what they consist of, who they are, and what is known of those that cannot be used."""
