"""One supervised process of ours: a fresh interpreter, started, spoken to, watched and ended.

`process.py` starts, ends and reaps it, `wire.py` is what goes over its socket, `watch.py` tells one
that hangs from one that works, `signals.py` holds signals while it is started. What it is started
for (workers, watchdogs, scans in a process of their own) is others' business. Nothing is imported
here: `wire.py` is part of every worker's start.
"""
