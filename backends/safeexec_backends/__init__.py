"""Sandboxes for safeexec, one package each; found through the entry-point group ``safeexec.backends``."""
