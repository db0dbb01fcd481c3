"""Shared memory: segments and who owns them, the ring's layout, bitmaps, RAM sources."""
