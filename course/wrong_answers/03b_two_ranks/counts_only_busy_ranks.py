# cell: step-gradient
# Multiplies by the number of ranks that have a sequence, but the engine's mean counts the idle ones too.
def step_gradient(model, batches):
    replicas = [copy.deepcopy(model) for _ in batches]
    M = sum(len(micro) for rank in batches for micro in rank)
    busy = sum(any(len(micro) for micro in rank) for rank in batches)
    for replica, rank in zip(replicas, batches, strict=True):
        for micro in rank:
            if micro:
                loss = busy * sum(token_mean(replica, sequence) for sequence in micro) / M
                loss.backward()
    found = [replica.table.grad for replica in replicas]
    return torch.stack([torch.zeros_like(model.table) if grad is None else grad for grad in found]).mean(0)
