"""When a run is measured, on which images, and what that gives."""
