"""What ``tools/evaluate.py`` measures and shows: metrics, noise, edges, classical filters, tables, pictures, pages."""
