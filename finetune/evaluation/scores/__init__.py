"""Several scores of one pair of images: the cosine of embeddings, that of a matcher, and both combined."""
