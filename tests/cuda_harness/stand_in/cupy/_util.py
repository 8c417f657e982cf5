class PerformanceWarning(RuntimeWarning):
    """As CuPy has it."""
