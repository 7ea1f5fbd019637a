"""The processes of a group: sums, parts and messages, and what is counted of them."""

import time

import pytest
import torch
from processes import run

from alexnet.parallel.group import Group, LostProcess, joined
from alexnet.parallel.parts import part_sizes, parts


@pytest.mark.parametrize(("count", "size"), [(10, 4), (4096, 3), (1000, 7), (2, 3), (0, 2), (5, 1)])
def test_parts_are_all_of_it_in_order_and_differ_by_at_most_one(count, size):
    assert [index for part in parts(count, size) for index in range(count)[part]] == list(range(count))
    sizes = part_sizes(count, size)
    assert len(sizes) == size and max(sizes) - min(sizes) <= 1


def of_each_kind(group: Group) -> dict:
    rank = group.rank
    sizes = part_sizes(5, group.size)
    rows = torch.arange(5.0)[group.part(5)]
    parts_of_columns = torch.full((2, sizes[rank]), float(rank))
    products = torch.arange(10.0).reshape(2, 5) * (rank + 1)
    results = {
        "sum": group.all_reduce(torch.tensor([1.0, 10.0]) * (rank + 1)).tolist(),
        "bf16": group.all_reduce(torch.tensor([1.0], dtype=torch.bfloat16)).item(),
        "rows": group.gather(rows).tolist(),
        "columns": group.gather(parts_of_columns, 1, sizes).tolist(),
        "scattered": group.scatter_sum(products, 1, sizes).tolist(),
        "objects": group.gather_objects({"rank": rank}),
        "first": group.broadcast(f"of {rank}"),
    }
    group.barrier()
    return results | {"counts": {kind: (each.calls, each.bytes) for kind, each in group.counts.items()}}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_process_has_the_same_sums_and_its_parts(size):
    results, sizes, total = run(size, of_each_kind), part_sizes(5, size), sum(range(1, size + 1))
    products = total * torch.arange(10.0).reshape(2, 5)
    for rank, result in enumerate(results):
        assert result["sum"] == [total, 10 * total] and result["bf16"] == size
        assert result["rows"] == [0, 1, 2, 3, 4]
        assert result["columns"] == [[float(r) for r in range(size) for _ in range(sizes[r])]] * 2
        assert result["scattered"] == products[:, parts(5, size)[rank]].tolist()
        assert result["objects"] == [{"rank": each} for each in range(size)] and result["first"] == "of 0"
        others = 5 - sizes[rank]
        expected = {
            "all_reduce": (2, 8 + 2),
            "gather": (2, 4 * others + 2 * 4 * others),
            "scatter_sum": (1, 2 * 4 * others),
        }
        assert size == 1 or expected.items() <= result["counts"].items()
    assert size > 1 or results[0]["counts"] == {}


def one_does_not_come(group: Group) -> str | None:
    if group.rank == 1:
        time.sleep(2)
        return None
    with pytest.raises(LostProcess, match=r"^another of the 2 processes did not answer within \d s$") as error:
        group.all_reduce(torch.ones(3))
    return str(error.value)


def test_a_process_that_does_not_answer_is_given_up_with_one_message():
    assert run(2, one_does_not_come, timeout_s=1.0)[0]


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined() as group:
        assert (group.rank, group.size, group.is_first) == (0, 1, True)
        x = torch.ones(2)
        assert group.all_reduce(x) is x and group.gather(x) is x and group.broadcast(3) == 3
