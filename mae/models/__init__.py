"""What has weights, and the arithmetic on patches around it."""
