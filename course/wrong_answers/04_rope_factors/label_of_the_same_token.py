# cell: recall
# The logits of token t are compared with the label of token t, and not of the next one.
def recall(factor, probes):
    model = models.load_model(FOLDER, rope_factor=factor, max_length=1024)
    hits = []
    for probe in probes:
        ids, labels = (torch.as_tensor(np.asarray(probe[name])).long() for name in ("input_ids", "labels"))
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0]
        hits.append((logits.argmax(-1) == labels)[labels != -100])
    return torch.cat(hits).double().mean().item()
