"""A model as a function from images to embeddings, and embeddings that are computed once."""
