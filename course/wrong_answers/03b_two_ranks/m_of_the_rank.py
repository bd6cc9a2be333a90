# cell: step-gradient
# Every rank divides by the number of its own sequences.
def step_gradient(model, batches):
    replicas = [copy.deepcopy(model) for _ in batches]
    for replica, micro_batches in zip(replicas, batches, strict=True):
        own = sum(len(micro_batch) for micro_batch in micro_batches)
        for micro_batch in micro_batches:
            if micro_batch:
                (sum(token_mean(replica, sequence) for sequence in micro_batch) / own).backward()
    found = [replica.table.grad for replica in replicas]
    return torch.stack([torch.zeros_like(model.table) if grad is None else grad for grad in found]).mean(0)
