"""A step's demand against what torch itself counts on a tiny Llama: operations, numbers moved, tensors kept."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from longalign.experiments.operations import CHUNK, NUMBER, Pace, demand
from longalign.recipe import loss
from longalign.recipe.collators import PackedCollator
from longalign.recipe.cost import LLAMA_2_7B
from longalign.train.memory import ModelShape
from longalign.train.models import MINIATURES, new_model

LENGTHS, TARGETS = [5, 9, 3, 3], [2, 6, 0, 2]
VOCABULARY = 40
LLAMA = ModelShape(4096, 32, 11008, heads=32, key_value_heads=32, head_size=128, vocab_size=32000)


@pytest.fixture(scope="module")
def tiny():
    """A miniature with grouped queries whose heads are together wider than its hidden size."""
    return new_model("mini-6b", vocab_size=VOCABULARY, max_length=64, seed=0)


def decoder_of(model):
    return replace(MINIATURES["mini-6b"], vocab_size=model.config.vocab_size)


def pack():
    features = [{"input_ids": [2] * n, "labels": [-100] * (n - m) + [2] * m, "loss_weight": 1.0}
                for n, m in zip(LENGTHS, TARGETS, strict=True)]  # fmt: skip
    return PackedCollator(0)(features)


def passes(model, within=lambda: None):
    """A forward and a backward pass of the pack, every layer at every position; `within` is called between them."""
    batch = pack()
    labels, weights = batch.pop("labels"), batch.pop("loss_weights")
    hidden = model.model(**batch).last_hidden_state
    value = loss.weighted_cross_entropy(hidden, model.lm_head.weight, labels, weights)
    within()
    value.backward()


class Traffic(TorchDispatchMode):
    """Counts the numbers that matrix products and CPU attention read and write."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        product = function.__name__.split(".")[0] in ("mm", "bmm", "addmm", "addmm_")
        if product or "flash_attention" in function.__name__:
            outs = out if isinstance(out, tuple) else (out,)
            operands = args[-2:] if product else args  # what addmm adds to is no operand of the product
            tensors = [t for t in (*operands, *outs) if isinstance(t, torch.Tensor) and t.is_floating_point()]
            self.numbers += sum(t.numel() for t in tensors)
        return out


def test_operations_are_those_that_torch_counts_once_attention_is_halved(tiny):
    # What torch does not count by itself; nor does it flash attention on a CPU.
    in_place = {torch.ops.aten.addmm_: lambda into, left, right, **_: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, sdpa_kernel(SDPBackend.MATH):
        passes(tiny)
    counted = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    step, cost = demand(decoder_of(tiny), [LENGTHS], [sum(TARGETS)]), MINIATURES["mini-6b"].cost
    attention = cost.per_pair * sum(n * n for n in LENGTHS)
    assert counted.pop("aten.bmm") == 2 * attention, "without a causal kernel all pairs are computed, not one half"
    assert sum(counted.values()) == step.flops - attention


def test_numbers_moved_are_those_of_all_products_and_attention(tiny):
    with Traffic() as traffic, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        passes(tiny)
    decoder = decoder_of(tiny)
    step = demand(decoder, [LENGTHS], [sum(TARGETS)])
    adam = 7 * decoder.parameters
    assert step.bytes_moved == NUMBER * (traffic.numbers + adam)
    twice = demand(decoder, [LENGTHS, LENGTHS], [sum(TARGETS)] * 2)
    assert twice.bytes_moved == NUMBER * (2 * traffic.numbers + adam + 3 * decoder.parameters), "gradients are added"


def test_activations_and_what_the_loss_holds_are_what_autograd_keeps(tiny):
    own = {p.untyped_storage().data_ptr() for p in tiny.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)  # so that no address is given twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = pack()
    labels, weights = batch.pop("labels"), batch.pop("loss_weights")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = tiny.model(**batch).last_hidden_state
        activations = sum(kept.values())
        alive.clear()
        loss.weighted_cross_entropy(hidden, tiny.lm_head.weight, labels, weights)
    step = demand(decoder_of(tiny), [LENGTHS], [sum(TARGETS)])
    assert step.activations == activations
    gradients = sum(tensor.nbytes for tensor in alive if tensor.is_floating_point())
    assert step.loss == gradients + NUMBER * sum(TARGETS) * VOCABULARY  # one chunk of logits


def test_a_layer_in_bf16_keeps_what_the_memory_of_a_device_counts(tiny):
    """Norms keep fp32 beside bf16; attention by sequences keeps its output once more than a kernel does."""
    model, kept, alive = copy.deepcopy(tiny).to(torch.bfloat16), {}, []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = pack()
    del batch["labels"], batch["loss_weights"]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(**batch)
    shape = decoder_of(tiny)
    last_norm, rotation, token = 6 * shape.hidden_size + 4, 2 * 2 * shape.head_size, 8
    layers = shape.layers * (shape.kept(2) + 2 * shape.query_size)
    found = sum(size for place, size in kept.items() if place not in own)
    assert found == sum(LENGTHS) * (layers + last_norm + rotation + token)


def test_weights_gradients_and_moments_are_those_of_the_model_and_adamw(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=0.0)
    passes(tiny)
    optimizer.step()
    step = demand(decoder_of(tiny), [LENGTHS])
    moments = [s for state in optimizer.state.values() for name, s in state.items() if name.startswith("exp")]
    assert step.weights == sum(p.nbytes for p in tiny.parameters()) == sum(p.grad.nbytes for p in tiny.parameters())
    assert step.optimizer == sum(moment.nbytes for moment in moments)
    assert step.gradients == step.weights


def test_a_decoders_parameters_are_those_of_the_models(tiny):
    assert decoder_of(tiny).parameters == sum(p.numel() for p in tiny.parameters())
    assert LLAMA.parameters == 6_738_415_616  # as its card says


def test_where_all_tokens_are_targets_operations_are_those_of_the_cost_model():
    lengths = [2, 4, 3]
    assert demand(LLAMA, [lengths], [9]).flops == LLAMA_2_7B(lengths).sum()
    assert replace(LLAMA, heads=64).cost.per_pair == 2 * LLAMA_2_7B.per_pair


def test_a_step_adds_up_over_its_packs_and_holds_the_largest():
    first, second = demand(LLAMA, [[2, 4]]), demand(LLAMA, [[3]])
    both = demand(LLAMA, [[2, 4], [3]])
    assert both.flops == first.flops + second.flops
    assert (both.activations, both.loss, both.weights) == (first.activations, first.loss, first.weights)
    assert both.work == (9.0, 29.0, 2.0, 1.0)
    pace = Pace(per_position=1.0, per_pair=0.5, per_micro_batch=2.0, per_step=0.25)
    assert both.seconds(pace) == 9 + 29 / 2 + 2 * 2 + 0.25


def test_a_step_without_packs_holds_its_states_and_moves_the_optimizers_numbers():
    empty = demand(LLAMA, [])
    assert (empty.flops, empty.activations, empty.loss) == (0, 0, 0)
    assert empty.bytes_moved == 7 * empty.weights


@pytest.mark.parametrize("targets", [[1, 1], [], [10]])
def test_targets_that_do_not_fit_the_packs_are_refused(targets):
    with pytest.raises(ValueError, match="do not fit packs of .9. tokens"):
        demand(LLAMA, [[2, 4, 3]], targets)


def test_the_chunk_is_that_of_the_loss():
    assert inspect.signature(loss.weighted_cross_entropy).parameters["chunk_size"].default == CHUNK
    many = demand(LLAMA, [[4 * CHUNK]])
    assert many.loss == NUMBER * (CHUNK * 32000 + 4096 * (32000 + 4 * CHUNK - 1))
