"""Imported by Chainer, which asks nothing of it."""
