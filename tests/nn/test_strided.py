import torch

from iris_cli.nn.strided import MeanImage, StridedDecoder, StridedEncoder


def test_latents_are_features_and_pixels_of_their_patch_and_give_the_image_back() -> None:
    images = torch.randn(2, 3, 32, 32)
    encoder, decoder = StridedEncoder(3, 6, widths=[12, 20]), StridedDecoder(6, 3, widths=[12, 20])

    latents = encoder(images)

    assert latents.shape == (2, encoder.width, 4, 4)
    assert encoder.width == 6 + 3 * 8 * 8
    bias = decoder.layers(torch.zeros_like(latents))  # all that an untrained decoder adds
    torch.testing.assert_close(decoder(latents) - bias, images)


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


def test_to_an_untrained_encoder_a_moved_ball_is_nearer_than_none() -> None:
    torch.manual_seed(0)
    none, ball, moved = torch.zeros(3, 1, 3, 64, 64)
    ball[:, :, 20:22, 40:42] = 1.0
    moved[:, :, 21:23, 41:43] = 1.0
    encoder = StridedEncoder(3, 64, widths=[16, 32, 64])

    latents = encoder(torch.cat([none, ball, moved]))[:, :, 1, 2]

    assert (latents[1] - latents[2]).norm() < (latents[1] - latents[0]).norm()
