# cell: is-wrong
# Leaves out the first sequence, since nothing comes before it; but its own borders and positions may be wrong.
def is_wrong(sequences, inputs):
    packed = logits(inputs)
    begin = len(sequences[0])
    for ids in sequences[1:]:
        with torch.no_grad():
            single = model(torch.tensor(ids)[None], use_cache=False).logits[0]
        if (packed[begin : begin + len(ids)] - single).abs().max() > 1e-10:
            return True
        begin += len(ids)
    return False
