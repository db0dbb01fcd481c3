"""A VM that is asked and held: the watchdog and its owner's end, and what each VMM needs."""
