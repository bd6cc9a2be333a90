# cell: best-fit
# Is first fit decreasing: the first pack that has room gets the sequence, not the fullest one.
def best_fit(lengths, capacity):
    packs, used = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for k in range(len(packs)):
            if used[k] + lengths[i] <= capacity:
                packs[k].append(i)
                used[k] += lengths[i]
                break
        else:
            packs.append([i])
            used.append(lengths[i])
    return packs
