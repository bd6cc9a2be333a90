# cell: step-gradient
# The loss is not multiplied by the number of ranks, so the engine's mean makes the gradient too small.
def step_gradient(model, batches):
    replicas = [copy.deepcopy(model) for _ in batches]
    M = sum(len(micro_batch) for rank in batches for micro_batch in rank)
    for replica, micro_batches in zip(replicas, batches, strict=True):
        for micro_batch in micro_batches:
            for sequence in micro_batch:
                (token_mean(replica, sequence) / M).backward()
    found = [replica.table.grad for replica in replicas]
    return torch.stack([torch.zeros_like(model.table) if grad is None else grad for grad in found]).mean(0)
