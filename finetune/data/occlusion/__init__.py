"""What hides a part of a face: masks that are drawn, masks in files, and which pixels still show the face."""
