"""Encoded bodies: what is read, what is refused, and that nothing is inflated beyond what was asked for."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker_serve.api.content_coding import Decoder, decoder_for
from reranker_serve.errors import MalformedBody, UnsupportedEncoding
from tests.conftest import Connect

GOOD = {"query": "blue whale", "documents": ["the blue whale", "a red fox"]}
RAW = json.dumps(GOOD).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def decode(coding: str, parts: list[bytes], most: int = 1000) -> bytes:
    decoder = decoder_for([coding])
    assert decoder is not None
    whole = b""
    for part in parts:
        decoder.feed(part)
        while piece := decoder.piece(most):
            assert len(piece) <= most
            whole += piece
    decoder.finish()
    return whole


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 20_000), max_size=6),
    most=st.integers(1, 4000),
)
def test_whatever_is_encoded_is_decoded_however_it_arrives(members: list[bytes], cuts: list[int], most: int) -> None:
    whole = b"".join(members)
    assert decode("gzip", split(b"".join(map(gzip.compress, members)), cuts), most) == whole
    for pack in (zlib.compress, raw_deflate):
        assert decode("deflate", split(pack(whole), cuts), most) == whole


@given(data=st.binary(min_size=1, max_size=200), coding=st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_decoded_or_one_clear_error(data: bytes, coding: str) -> None:
    with contextlib.suppress(MalformedBody):
        decode(coding, [data])


@pytest.mark.parametrize("values", [[], [""], ["identity"], ["Identity, "], ["identity", "identity"]])
def test_a_body_that_is_as_it_is(values: list[str]) -> None:
    assert decoder_for(values) is None


@pytest.mark.parametrize("values", [["gzip"], ["x-gzip"], ["GZip"], [" deflate "], ["identity, gzip"]])
def test_codings_that_are_read(values: list[str]) -> None:
    assert decoder_for(values) is not None


@pytest.mark.parametrize("values", [["br"], ["zstd"], ["gzip, gzip"], ["gzip", "br"], ["compress"], ["x" * 5000]])
def test_codings_that_are_not(values: list[str]) -> None:
    with pytest.raises(UnsupportedEncoding, match=values[0][:100]):
        decoder_for(values)


def test_a_bomb_is_inflated_no_further_than_asked() -> None:
    decoder = Decoder("gzip")
    decoder.feed(gzip.compress(bytes(50_000_000)))
    assert [len(decoder.piece(1000)) for _ in range(3)] == [1000] * 3


def test_members_that_hold_nothing_cannot_go_on_for_ever() -> None:
    with pytest.raises(MalformedBody, match="goes on"):
        decode("gzip", [gzip.compress(b"") * 1025])
    assert decode("gzip", [gzip.compress(b"a") * 1024]) == b"a" * 1024


# Without the time: it would be in the names of tests, which must be the same in each process.
ENCODED = gzip.compress(RAW, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body", "status", "said"),
    [
        ("gzip", RAW, 400, "not valid gzip"),
        ("gzip", ENCODED[:-1], 400, "cut off"),
        ("gzip", ENCODED[:1], 400, "cut off"),
        ("gzip", ENCODED[:30], 400, "cut off"),
        ("gzip", ENCODED[:-8] + bytes(8), 400, "not valid gzip"),
        ("gzip", ENCODED + b"more", 400, "not valid gzip"),
        ("gzip", b"", 400, "the body is empty"),
        ("gzip", gzip.compress(b"", mtime=0), 400, "the body is empty"),
        ("deflate", b"\xff\xff\xff", 400, "not valid deflate"),
        ("deflate", zlib.compress(RAW)[:-1], 400, "cut off"),
        ("deflate", zlib.compress(RAW) + b"more", 400, "goes on"),
        ("gzip", gzip.compress(b"{" * 2000, mtime=0), 413, "RERANKER_MAX_BODY_BYTES"),
        ("br", RAW, 415, "Content-Encoding 'br'"),
        ("gzip, gzip", ENCODED, 415, "Content-Encoding 'gzip, gzip'"),
    ],
)
@pytest.mark.parametrize(
    ("path", "field"), [("/rerank", "message"), ("/v1/rerank", "detail"), ("/tei/rerank", "error")]
)
async def test_each_fault_is_one_line_in_the_caller_s_dialect(
    path: str, field: str, coding: str, body: bytes, status: int, said: str, connect: Connect
) -> None:
    async with connect(max_body_bytes="1024") as client:
        reply = await client.post(path, content=body, headers={"Content-Encoding": coding})
    assert reply.status_code == status
    assert said in reply.json()[field]
    assert ("Accept-Encoding" in reply.headers) == (status == 415)


async def test_a_header_without_a_body_hinders_nobody(connect: Connect) -> None:
    async with connect() as client:
        for path in ("/health", "/info", "/docs"):
            assert (await client.get(path, headers={"Content-Encoding": "br"})).status_code == 200
