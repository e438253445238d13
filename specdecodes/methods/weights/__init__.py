"""Weights of few bits: made of a checkpoint, given by one, or converted to a form of our own."""
