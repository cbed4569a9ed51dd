"""The router decides which memory, if any, goes in front of a question, and in which form."""

if __name__ != "memkit.router":
    raise ImportError("import this package as 'memkit.router'")
