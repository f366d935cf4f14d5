# mypy: ignore-errors
# It is written against the CPython inside the image, whose private names a checker on the host does not know.
"""Runs inside the sandbox: what `hashlib` has with OpenSSL only, which the image is built without."""

import hashlib
import operator

import _hmac


def pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """Password based key derivation function 2 (PKCS #5 v2.0, RFC 8018) with HMAC as its pseudorandom function."""
    if not isinstance(hash_name, str):
        raise TypeError(f"pbkdf2_hmac() argument 'hash_name' must be str, not {type(hash_name).__name__}")
    password, salt = bytes(memoryview(password)), bytes(memoryview(salt))
    iterations = operator.index(iterations)
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    digest = hashlib.new(hash_name)
    # The names that _hmac has a function of its own for; one call for each iteration is what the time goes into.
    name = digest.name + "_32" if digest.name in ("blake2b", "blake2s") else digest.name
    compute = getattr(_hmac, "compute_" + name, None)
    if compute is None:
        raise ValueError(f"unsupported hash type {hash_name}")
    size = digest.digest_size if dklen is None else operator.index(dklen)
    if size < 1:
        raise ValueError("key length must be greater than 0.")
    if len(password) > digest.block_size:  # HMAC would hash it again in each iteration
        digest.update(password)
        password = digest.digest()
    key, number = b"", 0
    while len(key) < size:
        number += 1
        block = compute(password, salt + number.to_bytes(4, "big"))
        total = int.from_bytes(block)
        for _ in range(iterations - 1):
            block = compute(password, block)
            total ^= int.from_bytes(block)
        key += total.to_bytes(len(block), "big")
    return key[:size]


def complete():
    """Put it where programs look for it."""
    pbkdf2_hmac.__module__ = "hashlib"
    hashlib.pbkdf2_hmac = pbkdf2_hmac
    hashlib.__all__ += ("pbkdf2_hmac",)
