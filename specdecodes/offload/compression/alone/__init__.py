"""Weights coded by themselves: the exponents, of which few are common, in fewer bits."""
