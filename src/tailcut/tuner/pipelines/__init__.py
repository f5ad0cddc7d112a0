"""Tuning a pipeline: its stages and models measured one by one, whole configurations on the real server.

Pure: `ways`, `space`. Shells: `learning` (the untuned pipeline and its answers), `estimating` (what a call of each step
takes), `search`.
"""
