"""Snapshots of VMs: the directory that a save makes, and all that reads, checks and restores it.

Nothing of this folder is loaded by a plain scan or by a worker.
"""
