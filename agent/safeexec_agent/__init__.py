"""An agent whose actions are Python, run in a safeexec sandbox."""
