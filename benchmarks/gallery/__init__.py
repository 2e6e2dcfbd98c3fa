"""Study: galleries of drawn people: threshold, size, adaptation."""
