"""Template sets in the form of IJB-B and IJB-C: several images of one person are compared as one."""
