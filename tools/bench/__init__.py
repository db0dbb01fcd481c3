"""Benchmarks: ratios measured in one run against peers and limits; they assert nothing."""
