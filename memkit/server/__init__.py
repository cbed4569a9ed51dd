"""The HTTP server: an OpenAI-compatible proxy, a memory API and a dashboard; and the MCP server.

`memkit.server.app.create_app` creates the application and needs the extra ``server``;
`memkit.server.mcp.create_mcp` creates the MCP server and needs the extra ``mcp``.
"""
