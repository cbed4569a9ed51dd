"""The HTTP server: an OpenAI-compatible proxy, a memory API and a dashboard; and the MCP server.

`memkit.server.app.create_app` makes the application, which needs the extra ``server``;
`memkit.server.mcp.create_mcp` the MCP server, which needs the extra ``mcp``.
"""
