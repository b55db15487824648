"""The guard of third-party servers: their calls take the same way as ours, inside the daemon.

Our own servers judge and record their calls themselves. A stranger's server cannot be asked to, so
the gateway takes `tools/call` to it through `ThirdPartyGuard.around`. No MCP import.
"""
