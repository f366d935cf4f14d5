"""Egress by permission: the network a sandbox may use, served by the host.

A sandbox has no network. Its guest asks over the frames for connections to hosts by name; the host decides, resolves, connects to the address it
checked, speaks HTTP itself, and writes a log. What crosses is bytes of HTTP/1.1: everything that comes from the guest is parsed and written anew, nothing of it is
passed on as it is, save the bodies and the inside of a TLS tunnel.

``rules`` says what is permitted, ``addresses`` resolves and connects, ``http1`` reads and writes messages, ``stream`` is one connection's end at
the frames, ``service`` serves one connection, ``network`` is what a session and its steps hold. ``inside`` runs in the sandbox.
"""
