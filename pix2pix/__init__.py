"""Paired image-to-image translation (pix2pix)."""
