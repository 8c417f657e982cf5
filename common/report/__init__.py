"""A report as one HTML page that needs no network: table, plots and a viewer with the images in it."""
