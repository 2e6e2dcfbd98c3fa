"""Study: 2,000 damaged files, refused or converted correctly."""
