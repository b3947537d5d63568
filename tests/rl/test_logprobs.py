"""Log-probabilities in chunks against plain log_softmax, and `Policy` against the model it wraps."""

import pytest
import torch
from torch import nn

from evolpo.model import load_model
from evolpo.model.head import LogitRule
from evolpo.rl.batching import collate
from evolpo.rl.data import Row
from evolpo.rl.logprobs import CHUNK, CPU_STRIP, Policy, check_supported, chunked_logprobs

CPU = torch.device("cpu")


def random_case(seed=0, tokens=23, hidden=16, vocabulary=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, hidden, generator=generator, dtype=dtype),
        torch.randn(vocabulary, hidden, generator=generator, dtype=dtype),
        torch.randint(0, vocabulary, (tokens,), generator=generator),
        torch.randn(tokens, generator=generator),
    )


def plain(hidden, weight, targets, temperature):
    """Log-probabilities and entropies with all logits in memory, in float64."""
    logs = (hidden.double() @ weight.double().T / temperature).log_softmax(dim=1)
    return logs.gather(1, targets[:, None]).squeeze(1), -(logs.exp() * logs).sum(dim=1)


def with_gradients(function, hidden, weight, upstream):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    values, entropy = function(hidden, weight)
    (values * upstream).sum().backward()
    return values.detach(), entropy.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("chunk", [1, 4, 23, 1000])
def test_values_gradients_and_entropy_equal_log_softmax(chunk, temperature):
    for dtype in (torch.float64, torch.float32):  # the results are float32 from either
        hidden, weight, targets, upstream = random_case(dtype=dtype)
        ours = with_gradients(
            lambda h, w, t=targets: chunked_logprobs(h, w, t, temperature, chunk, entropy_every=1),
            hidden,
            weight,
            upstream,
        )
        theirs = with_gradients(lambda h, w, t=targets: plain(h, w, t, temperature), hidden, weight, upstream)
        for mine, yours in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.double(), yours.double(), rtol=1e-5, atol=1e-5)


def test_the_chunk_size_changes_nothing():
    hidden, weight, targets, upstream = random_case(tokens=37)
    results = [
        with_gradients(
            lambda h, w, c=chunk: chunked_logprobs(h, w, targets, 0.8, c, entropy_every=1), hidden, weight, upstream
        )
        for chunk in (1, 5, 37, 64)
    ]
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_entropy_only_where_asked_and_without_gradient():
    hidden, weight, targets, _ = random_case()
    hidden.requires_grad_()
    logprobs, entropy = chunked_logprobs(hidden, weight, targets)
    assert entropy is None
    assert logprobs.dtype == torch.float32
    assert logprobs.requires_grad
    _, entropy = chunked_logprobs(hidden, weight, targets, entropy_every=1)
    assert not entropy.requires_grad
    assert (entropy >= 0).all()


@pytest.mark.parametrize("chunk", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("every", [1, 2, 7, 8, 50])
def test_entropy_of_a_share_is_that_of_all_at_those_places(every, chunk):
    hidden, weight, targets, _ = random_case(tokens=37)
    _, some = chunked_logprobs(hidden, weight, targets, 0.8, chunk, every)
    _, all_of_them = plain(hidden, weight, targets, 0.8)
    torch.testing.assert_close(some.double(), all_of_them[::every].double(), rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow():
    hidden, weight, targets, upstream = random_case()
    ours = with_gradients(
        lambda h, w: chunked_logprobs(h, w, targets, 1.0, 4, entropy_every=1), hidden * 1e4, weight, upstream
    )
    assert all(torch.isfinite(x).all() for x in ours)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets, _ = random_case()
    hidden.requires_grad_()
    chunked_logprobs(hidden, weight, targets)[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_bfloat16_comes_close():
    hidden, weight, targets, upstream = random_case(dtype=torch.bfloat16)
    values, _, grad_hidden, _ = with_gradients(
        lambda h, w: chunked_logprobs(h, w, targets, entropy_every=1), hidden, weight, upstream
    )
    exact, _, exact_grad, _ = with_gradients(
        lambda h, w: plain(h, w, targets, 1.0), hidden.float(), weight.float(), upstream
    )
    assert grad_hidden.dtype == torch.bfloat16
    torch.testing.assert_close(values.double(), exact, rtol=0, atol=0.1)
    torch.testing.assert_close(grad_hidden.double(), exact_grad.double(), rtol=0.1, atol=0.1)


def saved_bytes(function):
    """Bytes that autograd keeps between the forward and the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(storages.values())


def test_autograd_keeps_nothing_of_the_size_of_the_logits():
    tokens, hidden_size, vocabulary = 256, 8, 4096
    hidden, weight, targets, _ = random_case(tokens=tokens, hidden=hidden_size, vocabulary=vocabulary)
    hidden.requires_grad_()
    kept = saved_bytes(lambda: chunked_logprobs(hidden, weight, targets, chunk=16)[0])
    inputs = sum(x.untyped_storage().nbytes() for x in (hidden, weight, targets))
    assert kept <= inputs + 4 * tokens
    logits = 4 * tokens * vocabulary
    assert kept < logits / 10
    assert saved_bytes(lambda: torch.log_softmax(hidden @ weight.T, 1).sum()) >= logits  # the measure sees logits


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest tensor, of a dtype if one is given, that any operation returns."""

    def __init__(self, dtype=None):
        super().__init__()
        self.dtype, self.elements = dtype, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and self.dtype in (None, tensor.dtype):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_of_the_size_of_the_logits_ever_exists():
    largest = []
    for tokens in (64, 256):
        hidden, weight, targets, _ = random_case(tokens=tokens, hidden=8, vocabulary=4096)
        hidden.requires_grad_()
        with LargestTensor() as mode:
            chunked_logprobs(hidden, weight, targets, chunk=16, entropy_every=1)[0].sum().backward()
        largest.append(mode.elements)
    assert largest == [16 * 4096, 16 * 4096]


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_the_logits_of_the_last_chunk_are_computed_once(chunks):
    hidden, weight, targets, _ = random_case(tokens=40)
    hidden.requires_grad_()
    weight.requires_grad_()
    with Products() as mode:
        chunked_logprobs(hidden, weight, targets, chunk=40 // chunks)[0].sum().backward()
    assert mode.count == 4 * chunks - 1


@pytest.mark.parametrize("chunk", [7, 23])
def test_a_second_backward_pass_gives_the_same_gradients(chunk):
    hidden, weight, targets, upstream = random_case()
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    loss = (chunked_logprobs(*inputs, targets, 0.7, chunk)[0] * upstream).sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for once, again in zip(first, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(once, again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, CHUNK), (torch.bfloat16, 2 * CHUNK)])
def test_logits_in_memory_are_as_many_bytes_in_any_dtype(dtype, tokens):
    hidden, weight, targets, _ = random_case(tokens=3 * CHUNK, hidden=8, vocabulary=64, dtype=dtype)
    with LargestTensor() as mode:
        chunked_logprobs(hidden, weight, targets)
    assert mode.elements == tokens * 64


def test_fp32_logits_of_a_bfloat16_model_are_those_of_a_strip():
    hidden, weight, targets, _ = random_case(tokens=100, hidden=8, vocabulary=4096, dtype=torch.bfloat16)
    hidden.requires_grad_()
    with LargestTensor(torch.float32) as mode:
        chunked_logprobs(hidden, weight, targets, entropy_every=1)[0].sum().backward()
    assert mode.elements == CPU_STRIP * 4096


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rule", [LogitRule(0.25), LogitRule(1.0, 3.0), LogitRule(2.0, 5.0)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scales_caps_and_biases_of_logits(rule, with_bias, temperature):
    hidden, weight, targets, upstream = random_case()
    bias = torch.linspace(-2, 2, len(weight))
    ours = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    theirs = [x.double().requires_grad_() for x in (hidden, weight, bias)]
    logprobs, entropy = chunked_logprobs(
        *ours[:2], targets, temperature, 5, True, bias=ours[2] if with_bias else None, rule=rule
    )
    logits = theirs[0] @ theirs[1].T + (theirs[2] if with_bias else 0.0)
    logits = logits * rule.scale
    logits = rule.cap * torch.tanh(logits / rule.cap) if rule.cap else logits
    logs = (logits / temperature).log_softmax(dim=1)
    expected = logs.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy.double(), -(logs.exp() * logs).sum(1), rtol=0, atol=1e-5)
    (logprobs * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for mine, other in zip(ours[: 2 + with_bias], theirs, strict=False):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


# -- the policy ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return load_model(tiny_model_path, torch.float32).eval()


def make_rows(*shapes, vocabulary=300, seed=0):
    """Rows from (group, prompt length, response length); one group has one prompt."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(length):
        return tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist())

    prompts = {group: tokens(prompt) for group, prompt, _ in shapes}
    return [Row(g, prompts[g], tokens(n), (0,) * n, 1.0, (0.0,) * n) for g, _, n in shapes]


ROWS = make_rows((0, 7, 5), (0, 7, 9), (0, 7, 1), (1, 1, 12), (1, 1, 3))


def model_logprobs(model, row, temperature=1.0):
    """Log-probabilities and entropies of one row, alone, from the model's own logits."""
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([row.prompt_ids + row.response_ids])
    logs = (model(input_ids=ids, use_cache=False).logits[0].double() / temperature).log_softmax(-1)
    logs = logs[len(row.prompt_ids) - 1 : -1]
    return logs.gather(1, torch.tensor(row.response_ids)[:, None]).squeeze(1), -(logs.exp() * logs).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("packs", [[[0], [1], [2], [3], [4]], [[0, 1, 2], [3, 4]], [[2, 0], [1], [4, 3]]])
def test_the_policy_equals_the_logits_of_the_model(model, packs, temperature):
    batch = collate(ROWS, packs, CPU)
    with torch.no_grad():
        logprobs, entropy, _ = Policy(model, temperature, chunk=4)(batch, entropy_every=1)
        entropies = batch.unflatten(entropy)
        for place, index in enumerate(batch.rows):
            size = len(ROWS[index].response_ids)
            expected, expected_entropy = model_logprobs(model, ROWS[index], temperature)
            torch.testing.assert_close(logprobs[place, :size].double(), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(entropies[place, :size].double(), expected_entropy, rtol=0, atol=1e-5)
            assert (logprobs[place, size:] == 0).all()


def policy_gradients(model, packs):
    """Gradients of a weighted sum of log-probabilities, the weight of a token fixed by its row and place."""
    model.zero_grad()
    batch = collate(ROWS, packs, CPU)
    logprobs, *_ = Policy(model)(batch)
    places = torch.arange(logprobs.shape[1]) + 1
    weights = torch.tensor(batch.rows)[:, None] + 1 + 1 / places
    (logprobs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_shared_prompts_have_the_gradients_of_separate_rows(model):
    separate = policy_gradients(model, [[0], [1], [2], [3], [4]])
    shared = policy_gradients(model, [[0, 1, 2], [4, 3]])
    for name, gradient in separate.items():
        scale = gradient.abs().max()
        assert (shared[name] - gradient).abs().max() <= 1e-5 * scale, name


def test_the_policy_takes_the_head_of_the_model(model):
    policy = Policy(model)
    assert policy.head is model.lm_head
    assert [name for name, _ in policy.named_parameters()] == [f"model.{name}" for name, _ in model.named_parameters()]


# -- models that the policy cannot serve --------------------------------------------------------------------------


class BiasedHead(nn.Linear):
    """A head that adds something after its matrix product."""

    def forward(self, hidden):
        return super().forward(hidden) + torch.arange(self.out_features) / 100


class ScaledHead(nn.Linear):
    """A head with a logit scale, as Cohere's and Granite's models have."""

    def forward(self, hidden):
        return super().forward(hidden) * 0.5


class CappedHead(nn.Linear):
    """A head with soft-capped logits, as Gemma 2 has."""

    def forward(self, hidden):
        return 3 * torch.tanh(super().forward(hidden) / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_plain_model_is_supported(tiny_model_path, dtype, temperature):
    check_supported(Policy(load_model(tiny_model_path, dtype).eval(), temperature))


@pytest.mark.parametrize("head", [BiasedHead, ScaledHead, CappedHead])
def test_heads_beyond_a_linear_map_are_refused(tiny_model_path, head):
    model = load_model(tiny_model_path, torch.float32).eval()
    special = head(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    special.weight = model.lm_head.weight
    model.set_output_embeddings(special)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: log-probabilities .* differ"):
        check_supported(Policy(model))


def test_models_with_an_attention_of_their_own_are_refused(tiny_model_path):
    model = load_model(tiny_model_path, torch.float32).eval()
    policy = Policy(model)
    forward = model.model.forward

    def own_attention(layout=None, **inputs):
        model.set_attn_implementation("sdpa")
        return forward(**inputs)

    model.model.forward = own_attention
    with pytest.raises(ValueError, match="attention"):
        check_supported(policy)


def test_models_whose_attention_is_fixed_are_refused(tiny_model_path, monkeypatch):
    model = load_model(tiny_model_path, torch.float32).eval()
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match="cannot be replaced"):
        Policy(model)


def test_the_heads_gradient_adds_up_chunks_in_fp32():
    """In bf16 the parts of 1,024 chunks vanish in their sum; a single chunk is the measure."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 16, generator=generator).bfloat16().repeat(1024, 1)
    targets = torch.full((1024,), 3)
    gradients = []
    for chunk in (1, 1024):
        weight = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
        chunked_logprobs(hidden, weight, targets, chunk=chunk)[0].sum().backward()
        gradients.append(weight.grad.float())
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 0.01
