"""The process that holds the target under attack. Standard library only: it runs in the target's own environment.

The supervisor starts it, gives it cases and looks at their effects from outside; nothing here is trusted for what can be seen from there.
"""
