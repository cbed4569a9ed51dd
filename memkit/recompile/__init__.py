"""The nightly recompilation: what is due, what it will cost, and who does it."""
