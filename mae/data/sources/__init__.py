"""Sources: raw sets of images in the layouts of their publishers."""
