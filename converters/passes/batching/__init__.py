"""How `set_batch` follows the batch through a graph and rewrites what holds it."""
