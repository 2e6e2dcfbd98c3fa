"""`export`: from an origin through measured steps to a file and its manifest."""
