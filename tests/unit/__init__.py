"""One file per module of the package, one case per test."""
