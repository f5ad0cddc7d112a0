"""The live view of a running server: from two snapshots of its counters to what a page or a terminal shows. Pure."""
