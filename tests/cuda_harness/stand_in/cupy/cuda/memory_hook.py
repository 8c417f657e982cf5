class MemoryHook:
    """A base to derive from. Nothing calls it."""

    name = "MemoryHook"
