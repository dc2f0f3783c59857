"""Detection on an encoder: the detector and its average precision."""
