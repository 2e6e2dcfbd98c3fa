"""Architecture search: what moves alpha beside the weights of a supernet, and what a search leaves behind."""
