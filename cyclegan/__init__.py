"""Unpaired image-to-image translation (CycleGAN)."""
