"""From files of texts to a classifier."""
