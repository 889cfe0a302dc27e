"""A codebook of directions. Equality with the published numbers is in tests/agents/delta_iris/test_tokenizer.py."""

import torch
from torch import Tensor

from iris_cli.nn.cosine_quantizer import CosineQuantizer


def quantizer(codes: int = 16) -> CosineQuantizer:
    torch.manual_seed(0)
    return CosineQuantizer(codes, 4, width=6)


def vectors(count: int = 40) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def test_a_code_is_chosen_by_its_direction_not_its_distance() -> None:
    book = quantizer(2)
    with torch.no_grad():
        unit = book.directions(vectors(1))[0]
        orthogonal = torch.linalg.svd(unit[None])[2][-1]
        book.codebook.copy_(torch.stack([orthogonal, 3 * unit]))

    assert book.tokens(vectors(1)).tolist() == [1]


def test_gradients_pass_as_if_the_vectors_themselves_went_through() -> None:
    book, given = quantizer(), vectors().requires_grad_()
    direct = given.detach().clone().requires_grad_()
    weights = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))

    (book(given).vectors * weights).sum().backward()
    (book.post_quant_proj(book.directions(direct)) * weights).sum().backward()

    torch.testing.assert_close(given.grad, direct.grad)


def test_evaluation_leaves_the_book_alone() -> None:
    book = quantizer().eval()
    before = book.codebook.clone()

    book(vectors())
    book.update_codebook(revival_updates=None)

    assert torch.equal(book.codebook, before)
    assert book.num_codebook_updates == 0


def test_codes_without_vectors_keep_their_direction() -> None:
    book = quantizer().train()
    book(vectors(3))
    used = book.tokens(vectors(3)).unique()
    unused = torch.tensor([code not in used for code in range(16)])
    before = torch.nn.functional.normalize(book.codebook[unused], dim=-1)

    book.update_codebook(revival_updates=0)

    torch.testing.assert_close(book.codebook[unused], before)
    torch.testing.assert_close(book.codebook.norm(dim=-1), torch.ones(16))


def test_revived_codes_are_distinct_vectors_of_the_batch() -> None:
    book = quantizer().train()
    book.codewords_freqs.zero_()
    book.codewords_freqs[0] = 1.0
    with torch.no_grad():
        book.codebook.copy_(book.directions(vectors(1)).expand(16, 4))  # one direction: all vectors take code 0
        units = book.directions(vectors(5))

    book(vectors(5))
    found = book.update_codebook(revival_updates=0)  # collapsed, so the limit is no matter

    revived = torch.cdist(book.codebook[1:], units).min(0)
    assert found == 15
    assert (revived.values < 1e-3).all()  # each of the five is a code now
    assert (book.codewords_freqs[1:] == 1 / 16).sum() == 5


def test_an_update_without_training_passes_does_nothing() -> None:
    book = quantizer().train()

    book.update_codebook(revival_updates=None)

    assert book.num_codebook_updates == 0
