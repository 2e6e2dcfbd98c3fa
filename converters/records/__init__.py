"""What is known of a model, as plain data: the conversion record, preprocessing, provenance, `rtool.*` metadata."""
