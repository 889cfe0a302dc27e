"""Patches of images and grids of tokens."""

import torch

from iris_cli.nn.patches import doubled, pooled, to_images, to_patches


def test_patches_are_put_back_where_they_were() -> None:
    images = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))

    patches = to_patches(images, 4)

    assert patches.shape == (3, 16, 2 * 4 * 4)
    assert torch.equal(patches[1, 6], images[1, :, 4:8, 8:12].flatten())  # row 1, column 2
    assert torch.equal(to_images(patches, 4), images)


def test_pooling_takes_the_means_of_neighbours_and_doubling_repeats_them() -> None:
    grid = torch.arange(16.0).view(1, 4, 4, 1).expand(2, 4, 4, 3)  # batches, rows, columns, width

    coarse = pooled(grid.flatten(1, 2))

    assert coarse[1, :, 2].tolist() == [2.5, 4.5, 10.5, 12.5]
    fine = doubled(coarse).unflatten(1, (4, 4))
    assert fine[0, :, :, 1].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2
    assert torch.equal(pooled(doubled(coarse)), coarse)
    assert doubled(coarse[:, None]).shape == (2, 1, 16, 3)
