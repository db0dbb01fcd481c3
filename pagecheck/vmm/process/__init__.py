"""Another process: what it maps, what is behind that, who may look, and whether it ran."""
