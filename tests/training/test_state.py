import torch

from ganglion.training.state import digest, pack, room, unpack


def travel(value):
    header, tensors = pack(value)
    arrived = room(header)
    for mine, theirs in zip(arrived, tensors, strict=True):
        mine.copy_(theirs)
    return unpack(header, arrived)


def test_tensors_keep_their_layout():
    weights = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    arrived = travel({"weights": weights, 7: [torch.tensor(3), "text", None]})
    assert arrived["weights"].stride() == weights.stride()
    assert torch.equal(arrived["weights"], weights)
    assert arrived[7][0] == 3
    assert arrived[7][1:] == ["text", None]


def test_a_part_of_a_tensor_travels_without_the_rest():
    column = torch.arange(12.0).reshape(3, 4)[:, 1]
    assert torch.equal(travel(column), column)


def test_the_state_of_an_optimizer_goes_on_elsewhere():
    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    one, other = (torch.optim.Adam(model.parameters(), lr=0.1, fused=True) for model in (first, second))
    steps(first, one, 2)
    model, state = travel((first.state_dict(), one.state_dict()))
    second.load_state_dict(model)
    other.load_state_dict(state)
    steps(first, one, 2)
    steps(second, other, 2)
    assert digest((first.state_dict(), one.state_dict())) == digest((second.state_dict(), other.state_dict()))


def test_a_digest_depends_on_every_bit_and_not_on_the_layout():
    weights = torch.randn(2, 3, 4, 4)
    assert digest({"a": weights}) == digest({"a": weights.to(memory_format=torch.channels_last)})
    changed = weights.clone()
    changed[1, 2, 3, 3] = torch.nextafter(changed[1, 2, 3, 3], torch.tensor(9.0))
    assert digest({"a": weights}) != digest({"a": changed})
    assert digest({"a": weights}) != digest({"b": weights})
