"""FP8 training of linear layers, experts included (Ling 2.0 report, section 5.1). Activations and gradients are
quantised in tiles of 1 x 128, weights in blocks of 128 x 128, all to E4M3 with float32 scales.

Products accumulate in float32 and give the precision of the activations. All three products of a layer are so:

    forward          y  = x W^T     x in tiles along its features,      W in blocks
    input gradient   dx = dy W      dy in tiles along its features,     W in the same blocks
    weight gradient  dW = dy^T x    both in tiles along the tokens, which start anew with every expert

What is kept of x for the backward pass is the FP8 version in tiles along the tokens: the only one that pass needs.
Router, norms, embeddings and LM head stay as they are.

`formats.py` is the format, `product.py` the three products, emulated on CPUs, `hopper.py` the same on Hopper's scaled
products, with `kernels.py` to quantise there, `layers.py` puts them into a model, `safeguards.py` watches.
"""
