"""Settings without effect: the table beside the fields, and the walk that names them."""
