"""Everything that a person sees: the commands (`main.py` has the group), tables, progress, streams.

Empty: `signals.py` and `streams.py` are loaded before anything else is.
"""
