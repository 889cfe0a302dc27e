import torch

from iris_cli.nn.strided import MeanImage, StridedDecoder, StridedEncoder


def test_the_image_is_halved_once_per_width_and_back() -> None:
    images = torch.randn(2, 3, 32, 32)

    latents = StridedEncoder(3, 6, widths=[8, 12, 20])(images)

    assert latents.shape == (2, 6, 4, 4)
    assert StridedDecoder(6, 3, widths=[8, 12, 20])(latents).shape == images.shape


def test_the_mean_image_is_the_mean_of_all_batches() -> None:
    batches, mean = torch.randn(3, 6, 2, 4, 4), MeanImage(2, 4)

    for batch in batches:
        for part in batch.split(2):
            mean.note(part)
        mean.update()

    torch.testing.assert_close(mean.mean, batches.mean((0, 1)))


def test_within_an_update_the_mean_image_stands_still_but_for_the_first() -> None:
    batches, mean = torch.randn(2, 6, 2, 4, 4), MeanImage(2, 4)

    mean.note(batches[0])
    first = mean.mean.clone()
    mean.update()
    mean.note(batches[1])

    torch.testing.assert_close(first, batches[0].mean(0))
    assert torch.equal(mean.mean, first)


def test_a_small_object_moves_the_latents_of_an_untrained_encoder() -> None:
    torch.manual_seed(0)
    empty, ball = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    ball[:, :, 20:22, 40:42] = 1.0
    encoder = StridedEncoder(3, 64, widths=[8, 16, 32, 64])

    patches = (encoder.patches(ball) - encoder.patches(empty)).square().sum(1)[0]

    assert patches[1, 2] > 2.0  # 12 numbers of 1; a projection keeps their squares' sum, more or less
    assert patches.count_nonzero() == 1
