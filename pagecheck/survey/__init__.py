"""Many memory files at once: rows, tables, stores and clusters."""
