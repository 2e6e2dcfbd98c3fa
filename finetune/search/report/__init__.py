"""`report.html` of a search."""
