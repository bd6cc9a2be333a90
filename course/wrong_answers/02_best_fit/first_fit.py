# cell: best-fit
# The first pack with room, not the fullest one.
def best_fit(lengths, capacity):
    packs, room = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for k in range(len(packs)):
            if room[k] >= lengths[i]:
                break
        else:
            k = len(packs)
            packs.append([])
            room.append(capacity)
        packs[k].append(i)
        room[k] -= lengths[i]
    return packs
