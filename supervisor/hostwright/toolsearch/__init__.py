"""Tool search: three tools in place of a hundred schemas.

`index` finds (BM25), `tools` is what clients see and call, `cost` says what a listing costs in
tokens. Pure: no MCP import, no process, no disk.
"""
