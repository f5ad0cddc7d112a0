"""Capacity planning: how many servers meet a latency limit at a rate, from the times that a tune measured."""
