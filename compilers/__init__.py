"""Compilers: each turns a document into one artifact. See `memkit.compilers.base.Compiler`."""

if __name__ != "memkit.compilers":
    raise ImportError("import this package as 'memkit.compilers'")
