"""Study: 2,000 damaged files."""
