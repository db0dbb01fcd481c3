"""Engines: what decides a page. `cpu` here; a DSA engine and its discovery belong here too."""
