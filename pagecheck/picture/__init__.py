"""Pictures of memory: where its zero, normal and undecided pages lie."""
