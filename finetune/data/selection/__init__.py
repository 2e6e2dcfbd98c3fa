"""Which images of a data set are used."""
