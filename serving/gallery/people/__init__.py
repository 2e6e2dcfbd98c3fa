"""From the vectors of tracks to people: similarity, threshold, clusters, edits, agreement with labels."""
