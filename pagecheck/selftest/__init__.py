"""What `pagecheck selftest` and tests/stress share: random worlds, each made by a seed, in which
every answer is compared with what numpy finds."""
