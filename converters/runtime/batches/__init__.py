"""At which batches a model is right."""
