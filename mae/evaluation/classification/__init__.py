"""Classification on an encoder: protocols, heads, training, accuracy."""
