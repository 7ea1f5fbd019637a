"""How a number of things is divided over processes."""


def parts(count: int, size: int) -> list[slice]:
    """Consecutive parts of `count` things, one for each of `size` processes; the first ones are larger by one where
    that does not divide, and the last ones are empty where there are fewer things than processes."""
    ends = [0]
    for rank in range(size):
        ends.append(ends[-1] + count // size + (rank < count % size))
    return [slice(*ends[rank : rank + 2]) for rank in range(size)]


def part_sizes(count: int, size: int) -> list[int]:
    """The sizes of these parts."""
    return [part.stop - part.start for part in parts(count, size)]
