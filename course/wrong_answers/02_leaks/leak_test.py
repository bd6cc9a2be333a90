# cell: is-wrong
# Other tokens in the first sequence: wrong positions do not leak, so they are not seen.
def is_wrong(sequences, inputs):
    changed, first = inputs["input_ids"].clone(), len(sequences[0])
    changed[0, :first] = (changed[0, :first] + 1) % 16
    moved = logits({**inputs, "input_ids": changed}) - logits(inputs)
    return bool(moved[first:].abs().max() > 0)
