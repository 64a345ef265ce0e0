from __future__ import annotations

import math

import torch

from extractor.attention import Attention, norm_scores


def test_norms_by_hand() -> None:
    features = torch.tensor([[[[3.0, 0.0]], [[4.0, -2.0]]]])
    assert norm_scores(features).tolist() == [[[5.0, 2.0]]]


def test_attention_by_formula() -> None:
    """softplus(w2 . relu(bn(W1 x + b1)) + b2), place by place, in plain Python."""
    torch.manual_seed(1)
    head = Attention(3, hidden=2).eval()
    head.bn1.running_mean.uniform_(-1, 1)
    head.bn1.running_var.uniform_(0.5, 2)
    head.bn1.weight.data.uniform_(0.5, 2)
    head.bn1.bias.data.uniform_(-1, 1)
    features = torch.randn(1, 3, 2, 2)
    with torch.inference_mode():
        scores = head(features)
    assert scores.shape == (1, 2, 2)
    for row in range(2):
        for column in range(2):
            x = features[0, :, row, column].tolist()
            total = head.conv2.bias.item()
            for unit in range(2):
                y = head.conv1.bias[unit].item()
                y += sum(w * v for w, v in zip(head.conv1.weight[unit].flatten().tolist(), x, strict=True))
                y = (y - head.bn1.running_mean[unit].item()) / math.sqrt(
                    head.bn1.running_var[unit].item() + head.bn1.eps
                )
                y = y * head.bn1.weight[unit].item() + head.bn1.bias[unit].item()
                total += max(y, 0) * head.conv2.weight[0, unit].item()
            assert math.isclose(scores[0, row, column].item(), math.log1p(math.exp(total)), rel_tol=1e-4)
