"""Modules with weights, and the arithmetic on patches around them."""
