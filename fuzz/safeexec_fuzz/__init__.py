"""The security harness: it attacks any Python executor and judges by effect what held.

``safeexec audit`` and ``safeexec fuzz`` are its commands. Nothing is imported here: the package's host process runs in the environments of other
projects, with the standard library alone.
"""
