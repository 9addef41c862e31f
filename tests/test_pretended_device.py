"Models train, captured, on a CPU that passes for a CUDA device; what stays uncaptured says why."

import pytest
import torch
from pretend_device import DEVICE, Graph, Refused, place, pretended_device


def test_tensors_know_their_place():
    with pretended_device():
        x, w = torch.randn(4, 3, device='cuda'), torch.nn.Linear(3, 2).to('cuda')
        y = w(x)
        assert x.device.type == y.device.type == 'cuda' and y.is_cuda and not torch.ones(3).is_cuda
        y.sum().backward()
        assert w.weight.grad.is_cuda and x.to(torch.float64).is_cuda and not x.cpu().is_cuda
        mapped = torch.vmap(lambda a: a @ w.weight.T)(torch.randn(2, 4, 3, device='cuda'))
        assert mapped.is_cuda and x.new_zeros(2).is_cuda and torch.zeros_like(x).is_cuda
        assert (x + 1.0).is_cuda and torch.where(x > 0, x, 0).is_cuda
    assert place(x) == DEVICE


REFUSALS = {
    'mix': lambda x: x + torch.ones(3),
    'numpy': lambda x: x.numpy(),
    'kernel': lambda x: x.long()[None] @ x.long()[:, None],
}


@pytest.mark.parametrize('kind', REFUSALS)
def test_what_cuda_refuses_is_refused(kind):
    with pretended_device(), pytest.raises(Refused, match=kind):
        REFUSALS[kind](torch.randn(3, device='cuda'))


BREAKS = {
    'reads': lambda x: float(x.sum()),
    'a mask': lambda x: x[x > 0],
    'host indices': lambda x: x[torch.arange(2)],
    'numbers': lambda x: x.new_tensor(3.0),
    'moves': lambda x: torch.arange(3).to('cuda'),
    'nonzero': lambda x: x.nonzero(),
}


@pytest.mark.parametrize('what', BREAKS)
def test_what_breaks_a_capture_is_counted_outside_of_one(what):
    with pretended_device() as device:
        x = torch.randn(3, device='cuda')
        BREAKS[what](x)
        assert sum(device.notes.values()) == 1
        with pytest.raises(Refused, match='previous error') as error:
            with torch.cuda.graph(Graph()):
                BREAKS[what](x)
        assert 'not permitted when stream is capturing' in str(error.value.__context__)


def test_a_replay_runs_the_operations_again():
    "Memory is fixed, a capture computes nothing, and a number read on the host stays frozen."
    with pretended_device():
        x, total, step = (torch.zeros(2, device='cuda') for _ in range(3))
        graph, count = torch.cuda.CUDAGraph(), 5
        with torch.cuda.graph(graph):
            total += (x * 2 + step) * count
        assert total.eq(0).all()
        x.fill_(1)
        count = 7
        graph.replay()
        graph.replay()
        assert total.eq(20).all()


def test_a_refused_capture_breaks_the_generator():
    with pretended_device() as device:
        x = torch.ones(3, device='cuda')
        with pytest.raises(Refused), torch.cuda.graph(torch.cuda.CUDAGraph(), (0, 1)):
            x.nonzero()
        with pytest.raises(Refused, match='Offset increment'):
            torch.randn(3, device='cuda')
        with pytest.raises(Refused, match='already recording'):
            with torch.cuda.graph(torch.cuda.CUDAGraph(), (0, 1)):
                x.clone()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            x.clone()
        assert torch.randn(3, device='cuda').is_cuda and device.open_pools == {(0, 1)}
