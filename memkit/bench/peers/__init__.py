"""Other memory systems on the same tasks as memkit, each in its own interpreter."""
