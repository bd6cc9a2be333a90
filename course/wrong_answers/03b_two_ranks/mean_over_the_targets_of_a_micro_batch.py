# cell: step-gradient
# Takes one mean over all targets of a micro-batch, so sequences with many targets count more than others.
def step_gradient(model, batches):
    replicas = [copy.deepcopy(model) for _ in batches]
    M = sum(len(micro) for rank in batches for micro in rank)
    for replica, rank in zip(replicas, batches, strict=True):
        for micro in rank:
            if micro:
                logits = torch.cat([replica(torch.as_tensor(ids)[:-1]) for ids, _ in micro])
                targets = torch.cat([torch.as_tensor(labels)[1:] for _, labels in micro])
                mean = F.cross_entropy(logits, targets, ignore_index=-100)
                (len(batches) * mean * len(micro) / M).backward()
    found = [replica.table.grad for replica in replicas]
    return torch.stack([torch.zeros_like(model.table) if grad is None else grad for grad in found]).mean(0)
