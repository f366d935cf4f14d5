"""The command line. One module per command, found by name so that only the one that runs is imported."""
