"""Trained models that come with medi2i: each a run folder, its card beside the weights (``common/registry.py``)."""
