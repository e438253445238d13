"""Experiments: pipeline modules and the command line over them. The library imports nothing from here."""
