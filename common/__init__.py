"""What both applications use, and nothing else."""
