"""The operating-system wall, one file per wall. Standard library only; shared by every sandbox that runs a process of its own.

Each module says whether its wall can stand (`probe`), raises it (`apply` or a verb), and checks every return value.
"""
