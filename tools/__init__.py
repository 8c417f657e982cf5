"""Commands for people. They import the rest and are not imported by it."""
