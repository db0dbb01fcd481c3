"""Developer tools: benchmarks, a sample snapshot, a real test guest."""
