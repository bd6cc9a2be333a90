# cell: is-wrong
# The first sequence alone is compared, and it never shows a leak.
def is_wrong(sequences, inputs):
    with torch.no_grad():
        alone = model(torch.tensor(sequences[0])[None], use_cache=False).logits[0]
    return bool((logits(inputs)[: len(alone)] - alone).abs().max() > 1e-8)
