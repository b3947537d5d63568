"""FP8: formats worked by hand, products against a plain loop over tiles, what is kept, and what is watched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ling import make_ling
from torch import nn

from evolpo.model.experts import Experts
from evolpo.model.fp8.formats import TILE, quantise_blocks, quantise_features, quantise_tokens, token_tiles
from evolpo.model.fp8.held import hold_weights
from evolpo.model.fp8.layers import Fp8Experts, Fp8Linear, use_fp8
from evolpo.model.fp8.product import fp8_product
from evolpo.model.fp8.safeguards import watch


def cast(x):
    return x.to(torch.float8_e4m3fn).float()


def plain_tile(tile):
    """A tile as the format keeps it: divided by its scale, rounded, multiplied again."""
    scale = tile.abs().max().float() / 448
    return tile if scale == 0 else cast(tile / scale) * scale


def plain_features(x):
    return torch.stack([torch.cat([plain_tile(row[c : c + TILE]) for c in range(0, len(row), TILE)]) for row in x])


def plain_blocks(w):
    result = w.clone()
    for r in range(0, w.shape[0], TILE):
        for c in range(0, w.shape[1], TILE):
            result[r : r + TILE, c : c + TILE] = plain_tile(w[r : r + TILE, c : c + TILE])
    return result


def plain_tokens(x, counts):
    result, start = x.clone(), 0
    for count in counts:
        for r in range(start, start + count, TILE):
            rows = slice(r, min(r + TILE, start + count))
            for c in range(x.shape[1]):
                result[rows, c] = plain_tile(x[rows, c])
        start += count
    return result


def draw(*shape, seed=0):
    """Values over several orders of magnitude, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * 10 ** torch.randn(*shape, generator=generator)
    return x * (torch.rand(*shape, generator=generator) > 0.1)


SIZES = st.sampled_from([1, 5, 127, 128, 129, 300])


@settings(max_examples=25, deadline=None)
@given(rows=SIZES, columns=SIZES, seed=st.integers(0, 9))
def test_tiles_and_blocks_equal_the_plain_version(rows, columns, seed):
    x = draw(rows, columns, seed=seed)
    assert torch.equal(quantise_features(x).dequantise(), plain_features(x))
    assert torch.equal(quantise_blocks(x).dequantise(), plain_blocks(x))
    tiles = token_tiles(torch.tensor([rows]))
    assert torch.equal(quantise_tokens(x, tiles).dequantise(), plain_tokens(x, [rows]))


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_tiles_along_tokens_never_cross_an_expert(counts):
    rows = token_tiles(torch.tensor(counts)).tolist()
    expected = [min(TILE, count - start) for count in counts for start in range(0, count, TILE)]
    assert rows == expected


def test_values_worked_by_hand():
    """Largest 896: scale 2. 896 -> 448 -> 896; 3 -> 1.5 -> 3; 2.2 -> 1.1 -> 1.125 -> 2.25; 0.001 / 2 -> 0."""
    x = torch.tensor([[896.0, 3.0, 2.2, 0.001, 0.0]])
    quantised = quantise_features(x)
    assert quantised.scales.tolist() == [[2.0]]
    assert quantised.dequantise().tolist() == [[896.0, 3.0, 2.25, 0.0, 0.0]]
    assert quantise_features(torch.zeros(2, 3)).dequantise().tolist() == [[0.0] * 3] * 2


def gradients(function, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = function(*leaves)
    upstream = draw(*output.shape, seed=7)
    output.backward(upstream)
    return output.detach(), *(leaf.grad for leaf in leaves), upstream


def test_the_three_products_equal_the_plain_version():
    x, w = draw(150, 200), draw(140, 200, seed=1)
    y, dx, dw, dy = gradients(lambda x, w: fp8_product(x, w), x, w)
    torch.testing.assert_close(y, plain_features(x) @ plain_blocks(w).T)
    torch.testing.assert_close(dx, plain_features(dy) @ plain_blocks(w))
    torch.testing.assert_close(dw, plain_tokens(dy, [150]).T @ plain_tokens(x, [150]))


def test_the_three_products_of_experts_equal_the_plain_version():
    counts = [130, 0, 20]
    ends = torch.tensor(counts).cumsum(0).int()
    x, w = draw(150, 64), draw(3, 48, 64, seed=1)
    y, dx, dw, dy = gradients(lambda x, w: fp8_product(x, w, ends), x, w)
    kept_x, kept_dy = plain_tokens(x, counts), plain_tokens(dy, counts)
    start = 0
    for expert, count in enumerate(counts):
        part = slice(start, start + count)
        blocks = plain_blocks(w[expert])
        torch.testing.assert_close(y[part], plain_features(x[part]) @ blocks.T if count else y[part])
        torch.testing.assert_close(dx[part], plain_features(dy[part]) @ blocks if count else dx[part])
        torch.testing.assert_close(dw[expert], kept_dy[part].T @ kept_x[part])
        start += count


def test_bfloat16_in_bfloat16_out():
    x, w = draw(3, 5, 64).bfloat16(), draw(32, 64, seed=1).bfloat16()
    y, dx, dw, _ = gradients(lambda x, w: fp8_product(x, w), x, w)
    assert y.shape == (3, 5, 32)
    assert {t.dtype for t in (y, dx, dw)} == {torch.bfloat16}
    torch.testing.assert_close(y.float(), (x.float() @ w.float().T), rtol=0.3, atol=float(y.abs().max()) * 0.1)


def kept_bytes(function):
    """Bytes of activations that autograd keeps, each storage once; parameters do not count."""
    storages = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(storages.values())


def test_what_a_layer_keeps_shrinks_by_more_than_two_fifths():
    x = draw(1024, 256).bfloat16()
    layer = nn.Linear(256, 128, bias=False).bfloat16()
    wide = kept_bytes(lambda: layer(x))
    use_fp8(nn.Sequential(layer))
    assert isinstance(layer, Fp8Linear)
    narrow = kept_bytes(lambda: layer(x))
    assert wide == x.nbytes
    assert 0.5 < narrow / wide < 0.53


def test_layers_with_one_input_keep_it_once():
    x = draw(1024, 256).bfloat16()
    layers = nn.ModuleList([nn.Linear(256, 64, bias=False).bfloat16() for _ in range(3)])
    use_fp8(layers)
    alone = kept_bytes(lambda: layers[0](x))
    together = kept_bytes(lambda: sum(layer(x) for layer in layers))
    assert together - alone < 1024  # the rows of the tiles, a few integers a layer
    other = kept_bytes(lambda: layers[0](x) + layers[1](x + 1))
    assert other > 1.9 * alone


def test_a_weight_is_quantised_once_while_it_is_held():
    layer = nn.Linear(256, 128, bias=False)
    use_fp8(nn.Sequential(layer))
    x = draw(16, 256)
    with hold_weights():
        first = layer(x)
        layer.weight.data.mul_(2)  # the way in which DeepSpeed writes: no version tells of it
        assert torch.equal(layer(x), first)
    torch.testing.assert_close(layer(x), 2 * first)


def test_an_input_that_changed_in_place_is_quantised_anew():
    layer = nn.Linear(64, 64, bias=False)
    use_fp8(nn.Sequential(layer))
    x = draw(8, 64)
    layer(x).sum().backward()
    first = layer.weight.grad.clone()
    layer.weight.grad = None
    x.mul_(2)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * first)


def test_a_ling_model_is_switched_where_it_should_be(ling):
    switched = use_fp8(ling)
    assert type(ling.model.layers[1].mlp.experts) is Fp8Experts
    assert {name.rpartition(".")[2] for name in switched} == {
        "query_key_value", "dense", "gate_proj", "up_proj", "down_proj", "experts", "eh_proj",
    }  # fmt: skip
    assert type(ling.lm_head) is nn.Linear
    assert not any(name.endswith("mlp.gate") for name in switched)


def test_a_model_in_fp8_stays_close_and_learns():
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
    losses = {}
    for fp8 in (False, True):
        model = make_ling(initializer_range=0.05).train()
        if fp8:
            use_fp8(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses[fp8] = []
        for _ in range(10):
            loss = model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[fp8].append(loss.item())
    assert losses[True][-1] < losses[True][0] - 0.5
    assert losses[True] == pytest.approx(losses[False], rel=0.05)
    assert losses[True] != losses[False]


def test_safeguards_see_every_tensor_of_every_layer(ling):
    names = use_fp8(ling)
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))
    with watch() as seen:
        ling(ids, labels=ids).loss.backward()
    for name in names:
        if "layers.3" in name:  # the MTP layer did not run
            continue
        for layer in [f"{name}.gate_up_proj", f"{name}.down_proj"] if name.endswith("experts") else [name]:
            tensors = {key.rpartition(".")[2] for key in seen.distortion if key.startswith(f"{layer}.")}
            assert {"x", "w", "dy", "dy_t"} <= tensors
    assert all(0 <= value < 0.5 for value in seen.underflow.values())
    assert all(0.99 < value <= 1.0001 for value in seen.distortion.values())


def test_underflow_and_distortion_worked_by_hand():
    """1e-6 beside 448 becomes zero: one of three non-zero elements."""
    layer = nn.Linear(4, 2, bias=False)
    use_fp8(nn.Sequential(layer))
    with watch() as seen:
        layer(torch.tensor([[448.0, 1e-6, 64.0, 0.0]]))
    assert seen.underflow["0.x"] == pytest.approx(1 / 3)
    assert seen.distortion["0.x"] == pytest.approx(1.0)


def test_experts_in_fp8_are_experts():
    experts = Experts(4, 32, 16)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.2)
    hidden = draw(20, 32)
    chosen = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).topk(2, dim=1).indices
    weights = torch.full((20, 2), 0.5)
    exact = experts(hidden, chosen, weights)
    use_fp8(nn.Sequential(experts))
    close = experts(hidden, chosen, weights)
    assert not torch.equal(close, exact)
    assert (close - exact).abs().max() < 0.1 * exact.abs().max()
