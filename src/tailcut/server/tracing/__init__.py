"""OpenTelemetry traces of requests: which are sampled, what is kept of them, and how that becomes spans.

Nothing here is called while a request is on its way. What the server knows of an answered request anyway is kept where
the request is sampled, and handed over to a thread once for each pass of the loop (docs/decisions/062).
"""
