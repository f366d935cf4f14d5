"""What the sandboxes at a vendor have in common.

The guest runs in the vendor's machine behind a small relay, and its frames travel through the standard input and output of one remote process as numbered
lines of text: vendors deliver those streams in pieces of any size, some as text only, some twice.
"""
