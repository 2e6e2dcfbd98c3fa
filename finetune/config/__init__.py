"""The configuration: its sections, the files it is read from, the pages that explain it."""
