"""One supervised process: what goes over its socket (`wire.py`)."""
