"""The product of two aligned matrices, and what happens when their shapes do not fit.

python examples/matmul.py
"""

import numpy as np

from tailcut import AlignedMatrix
from tailcut.errors import ShapeMismatchError


def main() -> None:
    a = AlignedMatrix.from_array(np.arange(16).reshape(4, 4))
    ones = AlignedMatrix.from_array(np.ones((4, 4)))
    product = a @ ones
    print(f"Result[0][0] = {product[0, 0]}")

    a.matmul(ones, out=product)  # the same once more, and nothing is allocated
    try:
        product @ AlignedMatrix(3, 5)
    except ShapeMismatchError as error:
        print(error)


if __name__ == "__main__":
    main()
