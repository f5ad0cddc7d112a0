"""Tuning a pipeline: its stages and models are measured one by one, whole configurations on the real server.

Pure: `ways`, `space`. With I/O: `learning` (the untuned pipeline and its answers), `estimating` (the time of a call of
each step), `search`.
"""
