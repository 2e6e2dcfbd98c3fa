"""What a gallery leaves in its folder: JSON and arrays, animations, the page."""
