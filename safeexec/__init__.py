"""Run Python that nobody trusts."""
