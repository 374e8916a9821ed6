"""Page objects: a page as a customer speaks of it. Things are found by role and name."""
