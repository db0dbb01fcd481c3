"""The sidecar: a service on a Unix socket, for VMMs and tools that run beside it.

`server.py` listens and ends, `session.py` is one client, `commands.py` what a client may ask for,
`direct.py` the channels that a VMM's own threads submit to.
"""
