"""Images made of noise (Kaji and Kida 2019, section 4.1): DCGAN and progressive growing."""
