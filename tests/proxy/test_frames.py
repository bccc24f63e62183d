"""Frames as they pass by, against the rules of RFC 6455 and RFC 7692 and another reader of them."""

import sys
import tracemalloc
import zlib
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from usageflow.policies.reason import Reason
from usageflow.proxy.frames import (
    Compression,
    Deflate,
    FrameReader,
    Look,
    Message,
    agreed_compression,
)

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
FIN = 0x80
COMPRESSED = 0x40
MASK = b"\x0a\xfb\x0c\x7d"
COUNTED = Message(None, None)


def frame(first: int, payload: bytes = b"", mask: bytes | None = None) -> bytes:
    """A frame, masked if it is a client's."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65_536:
        head = bytes([first, bit | 126]) + size.to_bytes(2)
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def reader(look: Look = "content", *, masked: bool = False, **options: Any) -> FrameReader:
    """A reader with room for what the tests say."""
    bounds = {"deflate": None, "message_bytes_max": 1_000_000, "inflated_bytes_max": 1_000_000}
    return FrameReader(masked=masked, look=look, **{**bounds, **options})


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def fed(subject: FrameReader, parts: list[bytes]) -> list[Message]:
    """All messages of these reads."""
    return [message for part in parts for message in subject.feed(part)]


class Sent(NamedTuple):
    """A message as its sender cuts it, with pings in between."""

    parts: list[bytes]
    is_text: bool
    pings: bool

    def frames(self, mask: bytes | None) -> bytes:
        """What is on the wire."""
        wire = b""
        for at, part in enumerate(self.parts):
            first = (1 if self.is_text else 2) if at == 0 else 0
            wire += frame(first | FIN if at == len(self.parts) - 1 else first, part, mask)
            wire += frame(PING, b"well?", mask) if self.pings else b""
        return wire


messages_sent = st.lists(
    st.builds(
        Sent,
        st.lists(st.binary(max_size=300), min_size=1, max_size=3),
        st.booleans(),
        st.booleans(),
    ),
    max_size=5,
)
masks = st.none() | st.binary(min_size=4, max_size=4)
cuts_of = st.lists(st.integers(0, 5_000), max_size=12)


@given(messages_sent, masks, cuts_of)
def test_messages_come_out_however_the_bytes_come_in(
    sent: list[Sent], mask: bytes | None, cuts: list[int]
) -> None:
    """Fragments, masks, pings in between and every split of the stream: the contents are exact."""
    wire = b"".join(message.frames(mask) for message in sent)
    contents = [b"".join(message.parts) for message in sent]
    subject = reader(masked=mask is not None)
    assert [found.content for found in fed(subject, pieces(wire, cuts))] == contents
    assert (subject.lost, subject.close_at) == (None, None)
    sized = reader("size", masked=mask is not None)
    assert fed(sized, pieces(wire, cuts)) == [Message(len(content), None) for content in contents]
    counted = reader("count", masked=mask is not None)
    assert fed(counted, pieces(wire, cuts)) == [COUNTED] * len(contents)


def test_every_single_split() -> None:
    """A frame with a length of 8 bytes and a mask, cut in every place of its head and after it."""
    wire = frame(BINARY, b"x" * 66_000, MASK) + frame(TEXT, b"after", MASK)
    for cut in [*range(20), *range(65_990, len(wire))]:
        found = fed(reader(masked=True), [wire[:cut], wire[cut:]])
        assert [message.size for message in found] == [66_000, 5]
        assert found[1].content == b"after"


@given(
    made=st.lists(
        st.tuples(
            st.integers(0, 255), st.sampled_from([0, 1, 3, 125, 126, 200]), st.integers(0, 19)
        ),
        max_size=6,
    ),
    masked=st.booleans(),
    cuts=cuts_of,
)
def test_another_reader_says_the_same(
    *, made: list[tuple[int, int, int]], masked: bool, cuts: list[int]
) -> None:
    """Whatever the first bytes are: `websockets` finds and refuses what is found and refused here.

    Most frames are made right, so that several follow one another.
    """
    wire = b""
    for first, size, odd in made:
        right = MASK if masked else None
        wrong = None if masked else MASK
        wire += frame(
            first if odd > 9 else first & 0x8F, b"\x03\xe8" * size, wrong if odd == 0 else right
        )
    subject = reader(masked=masked)
    ours = fed(subject, pieces(wire, cuts))

    theirs = Protocol(Side.SERVER if masked else Side.CLIENT, max_size=None)
    theirs.receive_data(wire)
    contents, current = [], b""
    for event in theirs.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            current += event.data
            if event.fin:
                contents.append(current)
                current = b""
    closed = subject.close_at is not None
    assert [message.content for message in ours] == contents
    if not closed:  # what follows a close is nothing to a receiver
        assert (subject.lost is None) == (theirs.parser_exc is None)


@pytest.mark.parametrize(
    ("masked", "wire", "wrong"),
    [
        (True, frame(TEXT, b"a"), "a frame is not masked"),
        (False, frame(TEXT, b"a", MASK), "a frame is masked"),
        (False, frame(0x83), "a frame is of an unknown kind"),
        (False, frame(0x8B), "a control frame is unknown, in fragments or has a reserved bit"),
        (False, frame(0x09), "a control frame is unknown, in fragments or has a reserved bit"),
        (False, frame(0xC9), "a control frame is unknown, in fragments or has a reserved bit"),
        (False, frame(PING, bytes(126)), "a control frame is too long"),
        (False, frame(CONTINUED), "a fragment is missing, or none was to follow"),
        (False, frame(0x01) + frame(TEXT), "a fragment is missing, or none was to follow"),
        (False, frame(TEXT | COMPRESSED), "a reserved bit is set"),
        (False, frame(TEXT | 0x20), "a reserved bit is set"),
        (False, frame(0x01) + frame(CONTINUED | COMPRESSED), "a reserved bit is set"),
        (False, b"\x82\x7f" + b"\xff" * 8, "a length is above 2^63 - 1"),
        (
            True,
            frame(CLOSE, b"", MASK) + frame(PING, b"", MASK),
            "something follows the close frame",
        ),
    ],
)
def test_what_breaks_the_rules_is_named_and_the_rest_not_read(
    *, masked: bool, wire: bytes, wrong: str
) -> None:
    """Messages before it are found; what comes after it is not guessed at."""
    mask = MASK if masked else None
    good = frame(TEXT, b"good", mask)
    whose = "client" if masked else "upstream"
    for parts in (
        [good + wire + good],
        [good, wire, good],
        [bytes([b]) for b in good + wire + good],
    ):
        subject = reader(masked=masked)
        assert fed(subject, parts) == [Message(4, b"good")]
        assert subject.lost == Reason(
            f"the WebSocket frames of the {whose} cannot be read: {wrong}"
        )


def test_a_reserved_bit_of_an_extension_is_only_of_the_first_fragment() -> None:
    """With permessage-deflate RSV1 marks a message, never a continuation or a control frame."""
    for wire in (frame(0x01) + frame(CONTINUED | COMPRESSED), frame(PING | COMPRESSED)):
        subject = reader(deflate=Deflate())
        subject.feed(wire)
        assert subject.lost is not None


def test_a_length_of_more_bytes_than_it_needs_is_read() -> None:
    """Senders must not write it, but every receiver reads it: what it carries counts."""
    wire = b"\x82\x7f" + (3).to_bytes(8) + b"abc" + b"\x82\x7e" + (0).to_bytes(2)
    assert fed(reader(), [wire]) == [Message(3, b"abc"), Message(0, b"")]


@pytest.mark.parametrize("masked", [True, False])
@given(before=messages_sent, cut=st.integers(0, 10_000))
def test_the_close_frame_is_found_where_it_begins(
    *, masked: bool, before: list[Sent], cut: int
) -> None:
    """To the byte, in the bytes fed last; of one cut in its head, what is still there."""
    mask = MASK if masked else None
    ahead = b"".join(message.frames(mask) for message in before)
    wire = ahead + frame(CLOSE, b"\x03\xe8bye", mask)
    cut %= len(wire) + 1
    subject = reader(masked=masked)
    subject.feed(wire[:cut])
    if subject.close_at is not None:
        assert subject.close_at == len(ahead)
    else:
        subject.feed(wire[cut:])
        assert subject.close_at == max(len(ahead) - cut, 0)
    assert subject.lost is None


def test_nothing_is_read_after_the_upstreams_close() -> None:
    """Its client reads no more, so there is nothing to measure and nothing to complain of."""
    subject = reader()
    assert subject.feed(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"a")) == []
    assert subject.feed(frame(TEXT, b"a")) == []
    assert subject.lost is None


def test_what_is_too_large_is_let_go_of_but_counted() -> None:
    """Of a message beyond the bound only the length is known, whether in one frame or in many."""
    subject = reader(message_bytes_max=10)
    large = frame(0x02, b"a" * 6) + frame(0x00, b"b" * 6) + frame(CONTINUED, b"c")
    wire = frame(TEXT, b"x" * 10) + large + frame(TEXT, b"x" * 11) + frame(TEXT, b"next")
    assert fed(subject, [wire]) == [
        Message(10, b"x" * 10),
        Message(13, None),
        Message(11, None),
        Message(4, b"next"),
    ]


def test_tiny_fragments_do_not_add_up_in_memory() -> None:
    """A message in ten thousand fragments of one byte, and more of none, costs its content."""
    subject = reader()
    subject.feed(frame(0x02))
    for _ in range(20):
        subject.feed((frame(0x00, b"a") + frame(0x00)) * 500)
    assert sys.getsizeof(subject._kept) < 30_000
    assert subject.feed(frame(CONTINUED)) == [Message(10_000, b"a" * 10_000)]


# permessage-deflate


def deflated(contents: list[bytes], deflate: Deflate, mask: bytes | None = None) -> bytes:
    """Messages as `websockets` compresses them, every second one in two fragments."""
    sender = PerMessageDeflate(False, not deflate.takeover, 15, deflate.window_bits)
    wire = b""
    for at, content in enumerate(contents):
        halves = [content[: len(content) // 2], content[len(content) // 2 :]]
        if at % 2:
            first = sender.encode(Frame(Opcode.TEXT, halves[0], fin=False))
            last = sender.encode(Frame(Opcode.CONT, halves[1]))
            wire += frame(0x01 | COMPRESSED, bytes(first.data), mask)
            wire += frame(CONTINUED, bytes(last.data), mask)
        else:
            whole = sender.encode(Frame(Opcode.TEXT, content))
            wire += frame(TEXT | COMPRESSED, bytes(whole.data), mask)
    return wire


@given(
    st.lists(
        st.binary(max_size=200) | st.integers(0, 3_000).map(lambda n: b"word " * n), max_size=6
    ),
    st.builds(Deflate, st.integers(9, 15), st.booleans()),
    masks,
    cuts_of,
)
def test_compressed_messages_are_inflated(
    contents: list[bytes], deflate: Deflate, mask: bytes | None, cuts: list[int]
) -> None:
    """With and without a window that outlives the message, in fragments, however it is split."""
    wire = deflated(contents, deflate, mask)
    subject = reader(masked=mask is not None, deflate=deflate)
    found = fed(subject, pieces(wire, cuts))
    assert found == [Message(len(content), content) for content in contents]
    sized = fed(reader("size", masked=mask is not None, deflate=deflate), pieces(wire, cuts))
    assert [message.size for message in sized] == [len(content) for content in contents]
    assert len(fed(reader("count", masked=mask is not None, deflate=deflate), [wire])) == len(
        contents
    )


def test_a_message_is_compressed_or_not() -> None:
    """Where compression was agreed on, each message says whether it is."""
    wire = frame(TEXT, b"plain") + deflated([b"small"], Deflate()) + frame(TEXT, b"plain")
    contents = [message.content for message in fed(reader(deflate=Deflate()), [wire])]
    assert contents == [b"plain", b"small", b"plain"]


def test_a_window_that_does_not_last_is_let_go_of() -> None:
    """A message that points back into the one before it is refused, as its receiver refuses it."""
    wire = deflated([b"again and again"] * 3, Deflate())
    subject = reader(deflate=Deflate(takeover=False))
    assert subject.feed(wire)[0].content == b"again and again"
    assert subject.obscured is not None


HELLO_LAST_BLOCK = bytes.fromhex("f348cdc9c90700")
"""RFC 7692, section 7.2.3.4: "Hello" in a last block; a byte of zeros follows it."""


def test_a_sender_may_end_a_message_in_a_last_block() -> None:
    """Some compressors can do nothing else; the next message begins anew."""
    wire = frame(TEXT | COMPRESSED, HELLO_LAST_BLOCK + b"\0") * 2
    wire += frame(TEXT | COMPRESSED, HELLO_LAST_BLOCK) + deflated([b"plain"], Deflate())
    for parts in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        found = fed(reader(deflate=Deflate()), parts)
        assert [message.content for message in found] == [b"Hello", b"Hello", b"Hello", b"plain"]


@pytest.mark.parametrize(
    ("payload", "wrong"),
    [
        (b"\xff\xff\xff", "a message cannot be inflated"),
        (HELLO_LAST_BLOCK + b"\0more", "a message goes on after its last block"),
    ],
)
def test_what_cannot_be_inflated_is_named_and_counted(payload: bytes, wrong: str) -> None:
    """Messages remain countable: the frames themselves are in order. So is the close frame."""
    subject = reader(deflate=Deflate())
    wire = frame(TEXT | COMPRESSED, payload) + frame(TEXT, b"next")
    assert subject.feed(wire) == [COUNTED] * 2
    assert subject.obscured == Reason(
        f"the WebSocket messages of the upstream cannot be measured: {wrong}"
    )
    assert subject.feed(frame(CLOSE)) == []
    assert (subject.lost, subject.close_at) == (None, 0)


def test_a_bomb_is_not_inflated() -> None:
    """A read inflates to so much and no more; what it was is said."""
    sender = zlib.compressobj(9, wbits=-15)
    bomb = sender.compress(bytes(50_000_000)) + sender.flush(zlib.Z_SYNC_FLUSH)
    subject = reader("size", masked=True, deflate=Deflate(), inflated_bytes_max=200_000)
    small = deflated([b"ok"], Deflate(), MASK)
    wire = small + frame(BINARY | COMPRESSED, bomb[:-4], MASK) + small
    tracemalloc.start()
    try:
        assert subject.feed(wire) == [Message(2, None), COUNTED, COUNTED]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert subject.obscured == Reason(
        "the WebSocket messages of the client cannot be measured: "
        "more was inflated at once than decoded_bytes_max allows"
    )
    assert subject._inflatable >= 0


def test_a_message_of_many_reads_may_inflate_to_any_size() -> None:
    """The bound is on what one read costs; a long message that comes as it should is measured."""
    sender = zlib.compressobj(wbits=-15)
    payload = sender.compress(bytes(4_000_000)) + sender.flush(zlib.Z_SYNC_FLUSH)
    wire = frame(BINARY | COMPRESSED, payload[:-4])
    subject = reader(deflate=Deflate(), message_bytes_max=1_000, inflated_bytes_max=1_000_000)
    found = fed(subject, [wire[at : at + 500] for at in range(0, len(wire), 500)])
    assert found == [Message(4_000_000, None)]
    assert subject.obscured is None


@pytest.mark.parametrize(
    ("values", "agreed"),
    [
        ([], Compression()),
        ([b" "], Compression()),
        ([b"permessage-deflate"], Compression(Deflate(), Deflate())),
        (
            [b"permessage-deflate; server_no_context_takeover;client_max_window_bits=9"],
            Compression(Deflate(9), Deflate(takeover=False)),
        ),
        (
            [b'permessage-deflate; client_no_context_takeover; server_max_window_bits = "10"'],
            Compression(Deflate(takeover=False), Deflate(10)),
        ),
    ],
)
def test_what_was_agreed_on_is_read(values: list[bytes], agreed: Compression) -> None:
    """RFC 7692, section 7.1: each side's parameters are its own."""
    fields = [(b"upgrade", b"websocket")]
    fields += [(b"sec-websocket-extensions", value) for value in values]
    assert agreed_compression(fields) == agreed


@pytest.mark.parametrize(
    "value",
    [
        b"x-webkit-deflate-frame",
        b"permessage-deflate, permessage-deflate",
        b"permessage-deflate; mystery",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; client_max_window_bits=08",
        b"permessage-deflate; client_no_context_takeover=1",
        b"; permessage-deflate",
    ],
)
def test_other_extensions_are_not_guessed_at(value: bytes) -> None:
    """They may change what a frame carries, so that nothing can be counted."""
    agreed = agreed_compression([(b"sec-websocket-extensions", value)])
    assert agreed == Reason("the extensions of the WebSocket are not known here")
