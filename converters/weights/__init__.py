"""Between a module's tensors and a file's: write back, strip, fill, load a state_dict."""
