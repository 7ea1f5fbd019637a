"""The paper's optimizer, for training loops of your own.

optimizer = alexnet.optim.PaperSGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer = alexnet.optim.paper_optimizer(network, "original")  # biases without weight decay, twice as fast
"""

from .training.optimizer import PaperSGD, paper_optimizer

__all__ = ["PaperSGD", "paper_optimizer"]
