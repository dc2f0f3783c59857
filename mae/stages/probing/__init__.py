"""Parts of the stages that evaluate a classifier on the encoder."""
