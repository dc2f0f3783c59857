"""The embedded demo, written in the layouts of the official sets."""
