"""From the crops of a track to one vector: quality, choice, mean, centring by camera."""
