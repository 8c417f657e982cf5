"""What the commands that make images use: noise, phantoms, shapes, projections, registration, NIfTI, folders."""
