"""The version, and the name of the distribution; importable without anything else."""

__version__ = "0.1.0"
DISTRIBUTION = "memkit-llm"  # what pip installs by; on PyPI, `memkit` is another project
