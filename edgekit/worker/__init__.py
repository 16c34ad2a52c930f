"""A function in another process, interpreter or host."""
