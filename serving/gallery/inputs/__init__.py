"""Crops as they lie: folders, manifests, Market-1501 names, the text of trackers, generators."""
