"""Other memory systems at the same work as memkit, each in an interpreter of its own."""
