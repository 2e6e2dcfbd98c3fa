"""Torch's own files, `.pt2` and TorchScript `.pt`, checked record by record before torch opens them.

Torch runs code while it reads such a file: pickles, shared libraries, Python source, expressions that are evaluated. So
the archive is read here with `zipfile`, every record is checked against an allow-list, and torch gets a new archive, in
memory, that holds nothing but what was checked. The path itself is never given to torch.
"""
