"""The trainer that both applications assemble."""
