"""Reading and writing model files: load, validate, map weights, write whole or not at all."""
