"""Convolutions, pools, normalisations and image operators, which take `[batch, channels, ...]`."""

from tailcut.engines.rows.arithmetic import rounded
from tailcut.engines.rows.operation import Operation, Rule, Table, axis_of
from tailcut.engines.rows.rules_matmul import parameters_without_rows
from tailcut.engines.rows.rules_reduce import along
from tailcut.engines.rows.sizes import ONE, Size, floor_divide, number, product
from tailcut.engines.rows.values import Mixes, RowAxis, Spoiled, Unclear, Value
from tailcut.spec import Rows


def batch_rows(value: Value, *, channels: bool = False) -> RowAxis | None:
    """The row axis of an image: axis 0, or also 1 for operators that treat every channel alike.

    Raises:
        Mixes: the rows lie on an axis along which the operator computes.
    """
    rows = value.rows
    if rows is not None and rows.axis != 0 and not (channels and rows.axis == 1):
        raise Mixes("mixes the rows", f"over axis {rows.axis}")
    return rows


def _window(operation: Operation, size: Size, index: int, kernel: Size, count: int) -> Size:
    """The length of a spatial axis after a window has moved over it; unknown sizes become functions of the old size."""
    strides = operation.ints("strides", None) or (1,) * count
    dilations = operation.ints("dilations", None) or (1,) * count
    pads = operation.ints("pads", None) or (0,) * (2 * count)
    same = str(operation.attributes.get("auto_pad", "NOTSET"))
    stride = number(strides[index])
    if same.startswith("SAME"):
        return floor_divide(size + stride - ONE, stride)
    covered = (kernel - ONE) * number(dilations[index]) + ONE
    span = size + number(pads[index] + pads[index + count]) - covered
    if operation.integer("ceil_mode", 0):
        return operation.unknown(index + 2)
    if span.integer is not None:
        return number(span.integer // strides[index] + 1)
    return span + ONE if stride == ONE else operation.derived(span, stride)


def _conv(operation: Operation) -> Value:
    value, weight = operation.need(0), operation.need(1)
    parameters_without_rows(operation, 1)
    return convolved(operation, value, weight)


def convolved(operation: Operation, value: Value, weight: Value) -> Value:
    """`[batch, channels, ...]` with weights `[out, channels, ...]`."""
    rows = batch_rows(value)
    spatial = value.sizes[2:]
    sizes = (
        _window(operation, size, index, weight.sizes[index + 2], len(spatial)) for index, size in enumerate(spatial)
    )
    return Value((value.sizes[0], weight.sizes[0], *sizes), rows)


def fused_conv(operation: Operation) -> Value:
    """X, W, B and an addend of the result's shape, which onnxruntime does not broadcast."""
    weights, added = [operation.value(index) for index in (1, 2)], operation.value(3)
    if any(weight is not None and weight.rows is not None for weight in weights):
        raise Unclear("takes a parameter from the rows")
    result = convolved(operation, operation.need(0), operation.need(1))
    if added is not None and added.rows != result.rows:
        raise Mixes("works for a fixed number of rows only")
    return result


def _qlinear_conv(operation: Operation) -> Value:
    """x, its scale and zero point, w, its scale and zero point, the result's, bias."""
    parameters_without_rows(operation, 1)
    if operation.integer("channels_last", 0):
        return channels_last(convolved(operation, channels_first(operation.need(0)), operation.need(3)))
    return convolved(operation, operation.need(0), operation.need(3))


def channels_first(value: Value) -> Value:
    """`[batch, ..., channels]` as `[batch, channels, ...]`."""
    return Value((value.sizes[0], value.sizes[-1], *value.sizes[1:-1]), batch_rows(value))


def channels_last(value: Value) -> Value:
    """`[batch, channels, ...]` as `[batch, ..., channels]`."""
    return Value((value.sizes[0], *value.sizes[2:], value.sizes[1]), batch_rows(value))


def _conv_transpose(operation: Operation) -> Value:
    value, weight = operation.need(0), operation.need(1)
    parameters_without_rows(operation, 1)
    rows, count = batch_rows(value), value.rank - 2
    strides = operation.ints("strides", None) or (1,) * count
    dilations = operation.ints("dilations", None) or (1,) * count
    pads = operation.ints("pads", None) or (0,) * (2 * count)
    extra = operation.ints("output_padding", None) or (0,) * count
    channels = weight.sizes[1] * number(operation.integer("group", 1))
    fixed = operation.ints("output_shape", None)
    sizes: list[Size] = []
    for index, size in enumerate(value.sizes[2:]):
        covered = (weight.sizes[index + 2] - ONE) * number(dilations[index]) + ONE
        grown = (size - ONE) * number(strides[index]) + covered
        length = grown + number(extra[index] - pads[index] - pads[index + count])
        if str(operation.attributes.get("auto_pad", "NOTSET")) != "NOTSET":
            length = operation.unknown(index + 2)
        sizes.append(number(fixed[index - count]) if fixed else length)
    return Value((value.sizes[0], channels, *sizes), rows)


def _deform_conv(operation: Operation) -> Value:
    value, weight, offset, mask = operation.need(0), operation.need(1), operation.need(2), operation.value(4)
    others = [part for part in (offset, mask) if part is not None]
    bias = operation.value(3)
    if weight.rows is not None or (bias is not None and bias.rows is not None):
        raise Unclear("takes a parameter from the rows")
    if any(part.rows != value.rows for part in others):
        raise Mixes("works for a fixed number of rows only")
    rows = batch_rows(value)
    return Value((value.sizes[0], weight.sizes[0], *offset.sizes[2:]), rows)


def pooled(operation: Operation) -> Value:
    """Pooling: a window over each channel."""
    value = operation.need(0)
    rows = batch_rows(value, channels=True)
    kernel = operation.ints("kernel_shape", None) or ()
    sizes = (
        _window(operation, size, index, number(kernel[index]), len(kernel))
        for index, size in enumerate(value.sizes[2:])
    )
    return Value((*value.sizes[:2], *sizes), rows)


def _pool(operation: Operation) -> list[Value | Spoiled]:
    result = pooled(operation)
    if result.rows is None:
        return [result, Value(result.shape)]
    return [result, Spoiled(Rows.DEPENDENT, "MaxPool's indices count the elements of all rows")]


def _max_unpool(operation: Operation) -> Value:
    """Writes elements at indices into the whole tensor, which may belong to another row."""
    if any(value.rows for value in operation.given):
        raise Mixes("puts elements at places that count over all rows")
    return Value(operation.items(2, "its shape")) if operation.value(2) is not None else Value(None)


def global_pool(operation: Operation) -> Value:
    """Global pooling: one element per channel."""
    value = operation.need(0)
    rows = batch_rows(value, channels=True)
    return Value((*value.sizes[:2], *(ONE,) * (value.rank - 2)), rows)


def _batch_normalization(operation: Operation) -> list[Value | Spoiled]:
    value = operation.need(0)
    if value.rows is not None:
        if operation.integer("training_mode", 0) or (operation.opset < 14 and len(operation.outputs) > 1):
            raise Mixes("normalises over the whole batch, as in training")
        if value.rows.axis == min(1, value.rank - 1):
            raise Mixes("treats rows as channels")
        parameters_without_rows(operation, 1)
    return [Value(value.sizes, value.rows)]


def _per_image(operation: Operation) -> Value:
    """Operators that compute within one image: InstanceNormalization, GroupNormalization, LRN."""
    parameters_without_rows(operation, 1)
    return Value(operation.need(0).sizes, batch_rows(operation.need(0)))


def _layer_normalization(operation: Operation) -> list[Value]:
    value = operation.need(0)
    axis = axis_of(operation.integer("axis", -1), value.rank)
    if value.rows is not None and value.rows.axis >= axis:
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    parameters_without_rows(operation, 1)
    inner = tuple(size if index < axis else ONE for index, size in enumerate(value.sizes))
    return [Value(value.sizes, value.rows), Value(inner, value.rows), Value(inner, value.rows)]


def _resize(operation: Operation) -> Value:
    """The row axis must keep its length. The inputs depend on the opset: X, scales; or X, roi, scales, sizes."""
    value = operation.need(0)
    mode = str(operation.attributes.get("coordinate_transformation_mode", "half_pixel"))
    linear = str(operation.attributes.get("mode", "nearest")) != "nearest"
    if mode == "tf_crop_and_resize" or (mode == "tf_half_pixel_for_nn" and linear):
        raise Unclear(f"has the coordinates {mode}")
    places = [axis_of(axis, value.rank) for axis in operation.ints("axes", None) or range(value.rank)]
    proportional = str(operation.attributes.get("keep_aspect_ratio_policy", "stretch")) != "stretch"
    shape = list(value.sizes)
    for axis, (scale, size) in zip(places, _resizing(operation), strict=True):
        if value.rows is not None and axis == value.rows.axis:
            if size is not None and size != value.rows.size and size.integer is not None:
                raise Mixes("expects a fixed number of rows")
            if (scale is not None and scale != ONE) or (size is not None and size != value.rows.size) or proportional:
                raise Unclear("resizes the row axis")
        elif proportional:
            shape[axis] = operation.unknown(axis)
        else:
            shape[axis] = size if size is not None else _scaled(operation, shape[axis], scale or ONE)
    return Value(tuple(shape), value.rows)


def _resizing(operation: Operation) -> list[tuple[Size | None, Size | None]]:
    """The scale or the size of each axis; the other one is None."""
    if "scales" in operation.attributes:
        return [(number(scale), None) for scale in operation.attributes["scales"]]
    index = 1 if operation.opset < 11 else 2
    scales, sizes = operation.value(index), operation.value(3)
    if scales is not None and scales.sizes != (number(0),):
        return [(scale, None) for scale in operation.items(index, "its scales")]
    if sizes is None:
        raise Unclear("has neither scales nor sizes")
    return [(None, size) for size in operation.items(3, "its sizes")]


def _scaled(operation: Operation, size: Size, scale: Size) -> Size:
    exact = size * scale
    return rounded("Floor", exact) if exact.whole or exact.number is not None else operation.derived(size, scale)


def _space(operation: Operation) -> Value:
    value, block = operation.need(0), number(operation.integer("blocksize", 1))
    rows = batch_rows(value)
    batch, channels, height, width = value.sizes
    if operation.kind == "DepthToSpace":
        return Value((batch, floor_divide(channels, block * block), height * block, width * block), rows)
    return Value((batch, channels * block * block, floor_divide(height, block), floor_divide(width, block)), rows)


def _grid_sample(operation: Operation) -> Value:
    value, grid = operation.need(0), operation.need(1)
    if value.rows != grid.rows:
        raise Mixes("works for a fixed number of rows only")
    rows = batch_rows(value)
    return Value((*value.sizes[:2], *grid.sizes[1:-1]), rows)


def _affine_grid(operation: Operation) -> Value:
    value, size = operation.need(0), operation.items(1, "its size")
    rows = batch_rows(value)
    if rows is not None and size[0] != rows.size:
        raise Mixes("expects a fixed number of rows")
    return Value((size[0], *size[2:], number(len(size) - 2)), rows)


def _col2im(operation: Operation) -> Value:
    value, image, block = operation.need(0), operation.items(1, "its image"), operation.items(2, "its block")
    rows = batch_rows(value)
    return Value((value.sizes[0], floor_divide(value.sizes[1], product(block)), *image), rows)


def _det(operation: Operation) -> Value:
    value = operation.need(0)
    if value.rows is not None and value.rows.axis >= value.rank - 2:
        raise Mixes("mixes the rows", f"over axis {value.rows.axis}")
    return Value(value.sizes[:-2], value.rows)


def _image_scaler(operation: Operation) -> Value:
    """A bias for each channel and one scale; experimental, like Crop."""
    return Value(operation.need(0).sizes, batch_rows(operation.need(0)))


def _crop(operation: Operation) -> Value:
    value = operation.need(0)
    return Value((*value.sizes[:2], operation.unknown(2), operation.unknown(3)), batch_rows(value, channels=True))


def _window_function(operation: Operation) -> Value:
    """HannWindow and others, of a given length."""
    return Value(operation.items(0, "its length"))


def _mel_weights(operation: Operation) -> Value:
    """A matrix with the bins of the one-sided transform as rows and a column for each band."""
    (bands,), (length,) = operation.items(0, "its bands"), operation.items(1, "its length")
    return Value((floor_divide(length, number(2)) + ONE, bands))


def _regions(operation: Operation) -> Value:
    if any(value.rows for value in operation.given):
        raise Mixes("picks images by their number in the batch")
    raise Unclear("cuts out regions")


def _dft(operation: Operation) -> Value:
    value = operation.need(0)
    axes = operation.ints("axis", 2) or (1 if operation.opset < 20 else -2,)
    axis = axis_of(axes[0], value.rank)
    along(operation, axis)
    shape = [*value.sizes[:-1], operation.unknown(value.rank - 1)]
    if operation.integer("onesided", 0) or operation.value(1) is not None:
        shape[axis] = operation.unknown(axis)
    return Value(tuple(shape), value.rows)


def _stft(operation: Operation) -> Value:
    value = operation.need(0)
    parameters_without_rows(operation, 1)
    rows = batch_rows(value)
    return Value((value.sizes[0], operation.unknown(1), operation.unknown(2), number(2)), rows)


RULES: Table = {
    "Conv": Rule(_conv),
    "ConvInteger": Rule(_conv),
    "QLinearConv": Rule(_qlinear_conv),
    "ConvTranspose": Rule(_conv_transpose),
    "DeformConv": Rule(_deform_conv),
    "MaxUnpool": Rule(_max_unpool),
    **{kind: Rule(_pool) for kind in ("MaxPool", "AveragePool", "LpPool")},
    **{kind: Rule(global_pool) for kind in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")},
    "BatchNormalization": Rule(_batch_normalization),
    **{kind: Rule(_per_image) for kind in ("InstanceNormalization", "GroupNormalization", "LRN")},
    "LayerNormalization": Rule(_layer_normalization),
    "RMSNormalization": Rule(_layer_normalization),
    "SimplifiedLayerNormalization": Rule(_layer_normalization),  # onnxruntime's, in the ONNX domain
    "Resize": Rule(_resize, counts=True),
    "Upsample": Rule(_resize, counts=True),
    "DepthToSpace": Rule(_space),
    "SpaceToDepth": Rule(_space),
    "GridSample": Rule(_grid_sample),
    "AffineGrid": Rule(_affine_grid, counts=True),
    "Col2Im": Rule(_col2im),
    "Det": Rule(_det),
    "ImageScaler": Rule(_image_scaler),
    "Crop": Rule(_crop),
    **{kind: Rule(_window_function) for kind in ("HannWindow", "HammingWindow", "BlackmanWindow")},
    "MelWeightMatrix": Rule(_mel_weights),
    "RoiAlign": Rule(_regions),
    "MaxRoiPool": Rule(_regions),
    "DFT": Rule(_dft),
    "STFT": Rule(_stft),
}
