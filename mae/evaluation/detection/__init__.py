"""Average precision of a detector by the COCO protocol."""
