"""Raw sets of images, as they are handed out."""
