"""The part of memkit that runs inside an SGLang server, and the protocol that it shares with the client.

SGLang loads `memkit.engine.sglang.plugin.plugin` through its entry-point group ``sglang.srt.plugins`` and
`memkit.engine.sglang.plugin.cache_linker` by the flags that ``memkit sglang-args`` prints. Both need only
what SGLang itself installs, and msgpack: ``pip install --no-deps WHEEL && pip install msgpack`` beside it,
WHEEL being memkit's.
"""
