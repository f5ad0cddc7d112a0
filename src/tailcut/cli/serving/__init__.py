"""The parts of `tailcut serve`: its SOURCEs, the models they become, its worker processes and its log lines."""
