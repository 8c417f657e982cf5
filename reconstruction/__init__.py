"""Reconstruction from projections: physics and networks together (Kaji and Kida 2019, section 5)."""
