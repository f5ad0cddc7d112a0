"""The bearer token in a request's `Authorization` field. Pure."""

from hmac import compare_digest


def carries_token(authorization: str, token: str) -> bool:
    """Whether it is `Bearer TOKEN`, compared in constant time; the scheme is in any case (RFC 9110 section 11.1)."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and compare_digest(given.strip(" ").encode(), token.encode())
