# cell: recall
# Takes the mean of the recalls of the probes, so an answer token of a short answer counts more than others.
def recall(factor, probes):
    model = models.load_model(FOLDER, rope_factor=factor, max_length=1024)
    hits = []
    for probe in probes:
        ids, labels = (torch.as_tensor(np.asarray(probe[name])).long() for name in ("input_ids", "labels"))
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0]
        asked = labels[1:] != -100
        right = logits[:-1].argmax(-1)[asked] == labels[1:][asked]
        hits.append(right.double().mean()[None])
    return torch.cat(hits).double().mean().item()
