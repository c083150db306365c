"""A fit inside the host: its run, its progress, how it is stopped, and what its result is worth."""
