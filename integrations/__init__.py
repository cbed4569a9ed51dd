"""Integrations with other frameworks."""

if __name__ != "memkit.integrations":
    raise ImportError("import this package as 'memkit.integrations'")
