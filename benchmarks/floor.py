"""The least that one training step of one SAE has to do, from the formulas alone."""


def floor(rows: int, d_in: int, d_sae: int, itemsize: int, shared: bool) -> dict[str, int]:
    """Floating-point operations and bytes that must move, per step of one SAE with both biases.

    The operations are those of the trainer's own form, in which any number of prefixes costs what one does (see
    `train._Chunk.loss_and_gradient`); a symmetric product counts half. With k latents, r = k + 1 decoder rows (the
    bias is a row that is always on), B distinct rows of input and d dimensions:

        products of encoder and decoder rows with the inputs    2 B d (k + r), and as much for their gradients
        decoder rows with each other, encoder rows with b_dec   d r (r + 1) + 2 k d
        second moments of the activations                       B r (r + 1)
        gradient of the activations through the former          2 B r^2
        gradient of the rows through each other                 2 d r^2 + 4 k d
        element by element (bias, relu, weights, mask)          6 B k
        Adam                                                    10 for each of the 2 k d + k + d parameters

    Bytes: parameters and Adam's two moments are read and written; beside them each SAE reads the weights of the rows
    if the inputs are shared (exact states, or counts over states), else its own batch. What stays in a cache between
    two steps need not come from memory, so this part of the floor can be beaten. Drawing the batches is not counted.

    Args:
        rows: distinct inputs in a batch, or states.
        d_in, d_sae: dimension and number of latents.
        itemsize: bytes of a number: 4 or 8.
        shared: whether all SAEs see the same rows, with weights of their own.
    """
    r = d_sae + 1
    parameters = 2 * d_sae * d_in + d_sae + d_in
    operations = (
        4 * rows * d_in * (d_sae + r)
        + d_in * r * (r + 1)
        + 2 * d_sae * d_in
        + rows * r * (r + 1)
        + 2 * rows * r * r
        + 2 * d_in * r * r
        + 4 * d_sae * d_in
        + 6 * rows * d_sae
        + 10 * parameters
    )
    numbers = 6 * parameters + rows * (1 if shared else d_in)
    return {"operations": operations, "bytes": numbers * itemsize}
