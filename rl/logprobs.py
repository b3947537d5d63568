"""Log-probabilities of response tokens: the LM head runs on them alone, in chunks, and never holds all its logits.

With N response tokens, hidden size H and vocabulary V the logits would be [N, V]. Here a chunk of them lives at a time,
in the forward pass and again in the backward pass, so that peak memory is chunk x V, whatever N is. The last chunk
lives on from one to the other, as what its gradient needs; with few tokens it is the only one. Products are those of a
chunk. What is done to logits in fp32 is done to strips of it, which need little memory and stay in a CPU's caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evolpo import InputError
from evolpo.model.attention import PACKED, use_packed_attention
from evolpo.model.head import PLAIN, LogitRule
from evolpo.model.weights import mtp_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evolpo.rl.batching import MicroBatch

ENTROPY_EVERY = 8
"""One response token in so many is asked for its entropy: a mean needs no more."""
CHUNK = 512
"""Response tokens whose logits are in memory at a time in fp32; twice as many in bf16."""
CPU_STRIP = 16
"""Of them, those whose logits are in memory in fp32 at a time on a CPU: few enough for its caches."""
STRIP = 256
"""The same elsewhere: enough to be worth a kernel."""


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        entropy_every: int,
        rule: LogitRule,
    ) -> tuple[Tensor, Tensor]:
        size = len(targets)
        logprobs = torch.empty(size, dtype=torch.float32, device=hidden.device)
        entropy = logprobs.new_empty(-(-size // entropy_every) if entropy_every else 0)
        logsumexp = logprobs.new_empty(size, 1)
        last = None
        for start in range(0, size, chunk):
            products = nn.functional.linear(hidden[start : start + chunk], weight, bias)  # [chunk, V]
            last = products if start + chunk >= size and any(ctx.needs_input_grad) else None
            for own, part in _strips(products, start):
                logits, slope = _logits(products[own], rule, temperature)
                chosen = logits.gather(1, targets[part, None])
                asked = slice(-part.start % entropy_every, None, entropy_every) if entropy_every else slice(0)
                some = logits[asked].clone()
                highest = logits.amax(dim=1, keepdim=True)
                total = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
                torch.add(highest, total.log(), out=logsumexp[part])
                logprobs[part] = (chosen - logsumexp[part]).squeeze(1)
                if entropy_every:
                    first = -(-part.start // entropy_every)  # of the tokens that are asked, the first in this strip
                    parts = torch.linalg.vecdot(logits[asked], some - logsumexp[part][asked])
                    entropy[first : first + len(some)] = -parts / total[asked, 0]
                if last is not None:
                    last[own] = _slopes_(logits.div_(total), targets[part], slope)
        ctx.save_for_backward(hidden, weight, bias, targets, logsumexp)
        ctx.temperature, ctx.chunk, ctx.rule, ctx.last = temperature, chunk, rule, last
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, logsumexp = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # In a sum of many chunks small parts would vanish in bf16.
        wide = torch.float32 if len(targets) > ctx.chunk else weight.dtype
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        scaled = (grads[0] / -ctx.temperature)[:, None]  # [N, 1]
        for start in reversed(range(0, len(targets), ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            slopes, ctx.last = ctx.last, None
            if slopes is None:
                slopes = nn.functional.linear(hidden[rows], weight, bias)
                for own, part in _strips(slopes, start):
                    logits, slope = _logits(slopes[own], ctx.rule, ctx.temperature)
                    slopes[own] = _slopes_(logits.sub_(logsumexp[part]).exp_(), targets[part], slope)
            # What the loss asks of a token is a factor of its row: put on the narrow side of both products.
            torch.matmul(slopes, weight, out=grad_hidden[rows])
            grad_hidden[rows] *= scaled[rows]
            if grad_weight is not None:
                _add_product(grad_weight, slopes, (hidden[rows] * scaled[rows]).to(hidden.dtype))
            if grad_bias is not None:
                grad_bias += scaled[rows, 0].to(slopes.dtype) @ slopes
        grad_weight = grad_weight if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _logits(products: Tensor, rule: LogitRule, temperature: float) -> tuple[Tensor, Tensor | float]:
    """Logits [strip, V] in fp32 of products, which they may overwrite, and the derivative of the rule between them."""
    logits = rule.apply_(products.float())
    slope = rule.slope(logits)
    if temperature != 1.0:
        logits /= temperature
    return logits, slope


def _slopes_(shares: Tensor, targets: Tensor, slope: Tensor | float) -> Tensor:
    """Derivative by the products of minus the targets' log-probabilities, times the temperature.

    Args:
        shares: [strip, V] softmax of the logits; overwritten.
        targets: [strip].
        slope: derivative of the logits by the products.
    """
    shares.scatter_add_(1, targets[:, None], shares.new_full((len(shares), 1), -1.0))
    return shares if isinstance(slope, float) and slope == 1.0 else shares.mul_(slope)


def _strips(products: Tensor, start: int) -> Iterator[tuple[slice, slice]]:
    """Strips of a chunk that begins at token `start`, by their places in the chunk and among all tokens."""
    size = len(products)
    strip = CPU_STRIP if products.device.type == "cpu" else STRIP
    for first in range(0, size, strip):
        last = min(first + strip, size)
        yield slice(first, last), slice(start + first, start + last)


def _add_product(total: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """Add grad^T hidden to a total, which may be wider than they are."""
    if total.dtype == grad.dtype:
        total.addmm_(grad.T, hidden)
    else:
        total += grad.T @ hidden


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int = 0,
    entropy_every: int = 0,
    *,
    bias: Tensor | None = None,
    rule: LogitRule = PLAIN,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target under softmax(rule(hidden @ weight.T + bias) / temperature).

    Args:
        hidden: [N, H] hidden states that predict the targets.
        weight: [V, H] weight of the LM head, in the dtype of `hidden`.
        targets: [N] int64 token ids.
        temperature: sampling temperature of the rollout; the policy is the distribution that was sampled from.
        chunk: tokens whose logits are in memory at a time; 0: `CHUNK`.
        entropy_every: also compute the entropy, in nats and without gradient, of the first of every so many
            distributions; 0: of none.
        bias: [V] of the LM head, or None.
        rule: scale and soft cap of the logits.

    Returns:
        [N] float32 log-probabilities in nats, and [N / entropy_every, rounded up] entropies or None.
    """
    chunk = chunk or CHUNK * torch.float32.itemsize // weight.dtype.itemsize
    logprobs, entropy = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, temperature, chunk, entropy_every, rule
    )
    return logprobs, entropy if entropy_every else None


class Policy(nn.Module):
    """A causal language model that answers with log-probabilities of response tokens instead of logits."""

    def __init__(
        self, model: PreTrainedModel, temperature: float = 1.0, chunk: int = 0, mtp_weight: float = 0.0
    ) -> None:
        """Switch the model to packed attention.

        Args:
            model: any causal language model of transformers whose attention is replaceable; see `check_supported`.
            temperature: sampling temperature of the rollout.
            chunk: response tokens whose logits are in memory at a time; 0: `CHUNK`.
            mtp_weight: weight of multi-token prediction; with 0 its layers, where there are any, are frozen.
        """
        super().__init__()
        use_packed_attention(model)
        layers = mtp_layers(model)
        for parameter in (p for layer in layers for p in layer.parameters()):
            parameter.requires_grad_(mtp_weight != 0.0)
        self.mtp_weight = mtp_weight if layers else 0.0
        self.rule = LogitRule.of(model.config)
        self.model = model
        self.temperature = temperature
        self.chunk = chunk

    @property
    def head(self) -> nn.Module:
        """The LM head."""
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return head

    def forward(self, batch: MicroBatch, entropy_every: int = 0) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities of the micro-batch's response tokens.

        Returns:
            [B, T] float32, zero where `batch.mask` is False; the entropy at the first of every `entropy_every` response
            tokens of the micro-batch, [K], or None; and, with multi-token prediction, the log-probabilities that it
            gives the tokens one step earlier, or None.
        """
        hidden = self.model.base_model(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),
            position_ids=batch.position_ids,
            use_cache=False,
            layout=batch.layout,
        ).last_hidden_state  # [1, N, H]
        predicting = hidden[0][batch.predicting]  # [M, H]
        head: Any = self.head
        weight, bias = head.weight, getattr(head, "bias", None)
        logprobs, entropy = chunked_logprobs(
            predicting, weight, batch.targets, self.temperature, self.chunk, entropy_every, bias=bias, rule=self.rule
        )
        further = None
        if self.mtp_weight and torch.is_grad_enabled():
            further = batch.unflatten(self._further(batch, hidden, weight))
        return batch.unflatten(logprobs), entropy, further

    def _further(self, batch: MicroBatch, hidden: Tensor, weight: Tensor) -> Tensor:
        """[M] log-probabilities of the response tokens by multi-token prediction, from two tokens before each."""
        if any(share.rows.stop - share.rows.start > 1 or share.length < 2 for share in batch.layout.shares):
            raise ValueError("multi-token prediction needs prompts of two tokens and more with one response each")
        inside: Any = self.model
        ahead = inside.look_further(hidden, batch.input_ids, batch.position_ids, layout=batch.layout)  # [1, N, H]
        logprobs, _ = chunked_logprobs(ahead[0][batch.predicting - 1], weight, batch.targets, 1.0, self.chunk)
        return logprobs


def check_supported(policy: Policy) -> None:
    """Compare `Policy` with the model's own logits on a few tokens and a shared prompt.

    Catches what a generic path cannot know: a head that does more to its logits than `LogitRule` says, an attention
    that is not taken from transformers' registry. Costs a few milliseconds at start-up.

    Raises:
        InputError: the two disagree, with the size of the disagreement, or the model does not run on such a batch.
    """
    kind = type(policy.model).__name__
    try:
        gaps = own_gaps(policy)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model.path: {kind}: it does not run on prompts that are shared by responses ({reason})"
        ) from error
    exact = next(policy.parameters()).dtype == torch.float32
    # In bfloat16 a token may get other experts by the last bit; a wrong head is wrong at every token.
    gap = gaps.max().item() if exact else gaps.median().item()
    if not gap < (1e-3 if exact else 0.5):
        raise InputError(
            f"model.path: {kind}: log-probabilities from hidden states differ from the model's own by {gap:.3g} nats;"
            " its head or its attention does something that evolpo does not know"
        )


def own_gaps(policy: Policy, prompt_tokens: int = 6, response_tokens: int = 5) -> Tensor:
    """How far log-probabilities of `Policy` are from those of the model's own logits and plain attention.

    Returns:
        [2, response_tokens] distances in nats, for two responses to one prompt.
    """
    from evolpo.rl.batching import collate
    from evolpo.rl.data import Row

    device = next(policy.parameters()).device
    size = policy.model.config.vocab_size
    prompt = tuple(i * 37 % size for i in range(3, 3 + prompt_tokens))
    responses = [tuple(i * 53 % size for i in range(start, start + response_tokens)) for start in (11, 23)]
    none = (0,) * response_tokens
    rows = [Row(0, prompt, response, none, 1.0, tuple(map(float, none))) for response in responses]
    with torch.no_grad():
        ours, *_ = policy(collate(rows, [[0, 1]], device))
        full = torch.tensor([prompt + response for response in responses], device=device)
        policy.model.set_attn_implementation("eager")  # knows soft caps and sinks, which "sdpa" leaves out
        logits = policy.model(input_ids=full, use_cache=False).logits.float() / policy.temperature
        policy.model.set_attn_implementation(PACKED)
    theirs = logits[:, len(prompt) - 1 : -1].log_softmax(-1).gather(2, full[:, len(prompt) :, None]).squeeze(2)
    gaps: Tensor = (ours - theirs).abs()
    return gaps
