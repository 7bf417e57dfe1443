"""Keys of subjects: the texts that they come from, their whitening, radii and distances, and the search for them."""
