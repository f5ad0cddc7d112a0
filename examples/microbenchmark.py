"""Is the built-in sum faster than a loop? Two functions in turns, and the ratio of their times with its interval.

python examples/microbenchmark.py
"""

from tailcut.lab import benchmark

VALUES = list(range(1000))


def loop() -> int:
    total = 0
    for value in VALUES:
        total += value
    return total


def builtin() -> int:
    return sum(VALUES)


def main() -> None:
    result = benchmark([loop, builtin], seconds=0.2, warmup_s=0.1)
    comparison = result.comparisons[0]
    ratio = comparison.ratio
    print(
        f"built-in sum against a loop: x{ratio.point:.3f} ({ratio.low:.3f} to {ratio.high:.3f}): {comparison.verdict}"
    )


if __name__ == "__main__":
    main()
