"""Capacity planning: how many servers meet a limit at a rate, from the times that a tune measured."""
