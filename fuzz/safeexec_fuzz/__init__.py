"""Attacks on Python executors, and the oracles that judge them by effect."""
