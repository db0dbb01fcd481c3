"""`python -m tools.mutants`: the tests have to notice when a deciding line is wrong.

Each mutant is the tree with one such line changed. It is built and given to the tests that are
named for it: one that passes them all has survived, and is listed with a reason, or a test is
missing. Why not mutmut: most of what decides is C, tests start workers that load the package
themselves, and only some functions decide anything, so that few mutants and few tests are enough.
"""
