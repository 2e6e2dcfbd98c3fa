"""Move tensors between modules and files: write back, strip, fill, load a state_dict."""
