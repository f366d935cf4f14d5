"""Serving an Executor to others: an HTTP server that speaks E2B's protocol, so that E2B's clients run their code here.

``http`` moves requests, ``connect`` frames Connect messages, ``machine`` is what a sandbox of the server consists of, ``processes``,
``files`` and ``interpreter`` are the routes of one sandbox, ``e2b`` puts them together. None of it is started by importing it.
"""
