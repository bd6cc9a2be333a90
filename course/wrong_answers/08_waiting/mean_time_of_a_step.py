# cell: speed
# Compares the mean time of a step, but the plans have different numbers of steps for the same sequences.
def speed(method, lengths, ranks, barrier):
    def of_a_step(name):
        work = cost.micro_batch_costs(plan_of(name, lengths, ranks))
        return wall(work, barrier) / len(work)

    return of_a_step("naive") / of_a_step(method)
