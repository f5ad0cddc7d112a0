"""Tailcut cuts the latency tail of AI inference: tune a model with proof, then serve exactly what was measured."""
