"""Snapshots: a VM's RAM in a directory without its zero pages, checked, and brought back."""
