"""OpenTelemetry traces of requests: which are sampled, what is recorded about them, and how records become spans.

Nothing here runs before a request is answered. What the server knows about it anyway is kept where it is sampled, and
handed over to a thread once per pass of the loop (docs/decisions/062).
"""
