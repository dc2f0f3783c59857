"""Principal components of patches, computed in one pass (MAE's Table 1d predicts the first 96)."""

import torch
from torch import Tensor, nn

from mae.models.patches import Pair, patchify


class Moments:
    """Sums over vectors of T values, in float64, from which mean and covariance are computed."""

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(1 + width, 1 + width, dtype=torch.float64, device=device)

    def add(self, vectors: Tensor) -> None:
        """Add vectors (n, T)."""
        wide = torch.cat([vectors.new_ones(len(vectors), 1), vectors], dim=1).double()
        self.sums += wide.T @ wide

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Compute mean (T,) and covariance (T, T), of the vectors as the whole population."""
        means = self.sums / self.sums[0, 0]
        return means[0, 1:], means[1:, 1:] - torch.outer(means[0, 1:], means[0, 1:])


class PatchPCA(nn.Module):
    """Patches (N, L, T) as coefficients (N, L, K) of their first principal components, and back.

    components (K, T): orthonormal rows, the largest variance first, their sign such that each one's largest
    entry is positive. variances (K,): of the coefficients. explained (): the share of the patches' variance.
    """

    components: Tensor
    mean: Tensor
    variances: Tensor
    explained: Tensor

    def __init__(self, grid: Pair, patch_size: Pair, *, channels: int = 3, components: int = 96) -> None:
        super().__init__()
        width = patch_size[0] * patch_size[1] * channels
        if not 0 < components <= width:
            raise ValueError(f"{components} components of patches of {width} values: choose 1 to {width}")
        self.grid, self.patch_size = grid, patch_size
        self.register_buffer("components", torch.zeros(components, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variances", torch.zeros(components))
        self.register_buffer("explained", torch.zeros(()))

    def take(self, moments: Moments) -> None:
        """Set the components to those of `moments`."""
        mean, covariance = moments.mean_and_covariance()
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        components = vectors.T.flip(0)[: len(self.components)]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        self.components.copy_(components * largest.sign())
        self.mean.copy_(mean)
        self.variances.copy_(variances.flip(0)[: len(self.components)])
        self.explained.copy_(self.variances.sum() / variances.sum())

    def coefficients(self, images: Tensor) -> Tensor:
        """Compute the coefficients (N, L, K) of images (N, C, H, W), in the images' dtype."""
        patches = patchify(images, self.patch_size)
        return (patches - self.mean.to(patches.dtype)) @ self.components.to(patches.dtype).T

    def rebuilt(self, coefficients: Tensor) -> Tensor:
        """The patches (N, L, T) that coefficients (N, L, K) stand for."""
        return coefficients @ self.components.to(coefficients.dtype) + self.mean.to(coefficients.dtype)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images -> {"error": mean squared error of the patches rebuilt from their coefficients}."""
        return {"error": (self.round_trip(images) - patchify(images, self.patch_size)).square().mean()}

    def round_trip(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the pixels of their patches (N, L, T), rebuilt from the components."""
        return self.rebuilt(self.coefficients(images))
