"""The package's version, where both the build and the code read it."""

__version__ = "0.1.0"
