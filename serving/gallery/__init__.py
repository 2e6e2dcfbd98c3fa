"""Who is in these crops, without labels: tracks become people, with a page to correct them."""
