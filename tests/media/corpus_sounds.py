"""WAV, MP3 and FLAC files of many structures. The samples of MP3 and FLAC are encoded by PyAV."""

import io
import random
import struct
from functools import cache
from typing import Any

import av
import numpy as np

from tests.media.corpus_pictures import riff_chunk, trailing

_PCM, _FLOAT, _ALAW, _MULAW = 1, 3, 6, 7
_WAV_FORMATS = (
    *((_PCM, bits) for bits in (8, 16, 24, 32)),
    (_FLOAT, 32),
    (_FLOAT, 64),
    (_ALAW, 8),
    (_MULAW, 8),
)
_SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")
_STREAMED = (0xFFFFFFFF, 0x7FFFF000)


def wav(rng: random.Random) -> bytes:
    """Return a WAV of any sample format, with other chunks, odd sizes or a streaming header."""
    tag, bits = rng.choice(_WAV_FORMATS)
    channels, rate = rng.choice([1, 1, 2, 6]), rng.choice([8000, 22050, 44100, 48000])
    frame = channels * bits // 8
    header = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)
    if rng.random() < 0.25:
        extension = struct.pack("<HHIH", 22, bits, (1 << channels) - 1, tag) + _SUBFORMAT
        header = struct.pack("<H", 0xFFFE) + header[2:] + extension
    before, after = _wav_chunks(rng), _wav_chunks(rng)
    samples = _wav_samples(rng, tag, bits, rng.randint(1, 90) * channels)
    start = b"WAVE" + riff_chunk(b"fmt ", header) + before
    if rng.random() < 0.15:
        # A pipe cannot be rewound to write the sizes, and nothing can follow the samples.
        data = b"data" + struct.pack("<I", rng.choice(_STREAMED)) + samples
        return b"RIFF" + struct.pack("<I", rng.choice((0, *_STREAMED))) + start + data
    body = start + riff_chunk(b"data", samples) + after
    size = len(body)
    if len(samples) % 2 and not after and rng.random() < 0.5:
        body = body[:-1]
        return b"RIFF" + struct.pack("<I", rng.choice([size, size - 1])) + body
    return b"RIFF" + struct.pack("<I", size) + body + trailing(rng) * (rng.random() < 0.3)


def _wav_samples(rng: random.Random, tag: int, bits: int, count: int) -> bytes:
    if tag == _FLOAT:
        code = "f" if bits == 32 else "d"
        return struct.pack(f"<{count}{code}", *(rng.uniform(-1, 1) for _ in range(count)))
    return rng.randbytes(count * bits // 8)


def _wav_chunks(rng: random.Random) -> bytes:
    title = riff_chunk(b"INAM", b"a title\0") + riff_chunk(b"ISFT", b"by hand\0\0")
    known = [
        riff_chunk(b"LIST", b"INFO" + title),
        riff_chunk(b"LIST", b"INFO"),
        riff_chunk(b"LIST", b"adtl" + riff_chunk(b"labl", b"\1\0\0\0mark\0")),
        riff_chunk(b"cue ", struct.pack("<I", 0)),
        riff_chunk(b"fact", struct.pack("<I", 30)),
        riff_chunk(b"bext", rng.randbytes(rng.randint(602, 620))),
        riff_chunk(b"JUNK", bytes(rng.randrange(40))),
        riff_chunk(b"id3 ", id3_tag(rng)),
    ]
    return b"".join(rng.sample(known, rng.choice([0, 0, 1, 2])))


@cache
def encoded(
    form: str, codec: str, sample_format: str, *, rate: int, layout: str, bit_rate: int = 64_000
) -> bytes:
    """Return a tenth of a second of sound in a container of PyAV's."""
    file = io.BytesIO()
    options = {"fflags": "+bitexact"} | ({"id3v2_version": "0"} if form == "mp3" else {})
    with av.open(file, "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate, options={"flags": "+bitexact"})
        context = stream.codec_context
        context.layout, context.format, context.thread_count = layout, sample_format, 1
        context.bit_rate = bit_rate
        tone = (np.sin(np.arange(rate // 10) * 0.05) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(
            np.stack([tone] * (2 if layout == "stereo" else 1)), format="s16p", layout=layout
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(sample_format, layout, rate, context.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return file.getvalue()


def synchsafe(value: int) -> bytes:
    """Return a size as ID3 writes it, 7 bits a byte."""
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3_tag(rng: random.Random) -> bytes:
    """Return an ID3v2.3 or 2.4 tag with frames of many kinds, and padding or none."""
    version = rng.choice([3, 4])
    texts = [b"\0caf\xe9", b"\1\xff\xfe" + "caf\u00e9".encode("utf-16-le"), b"\3caf\xc3\xa9\0"]
    text = rng.choice(texts[: version - 1])
    picture = b"\0image/png\0\3\0" + rng.randbytes(rng.choice([10, 300]))
    known = [
        (b"TIT2", text),
        (b"TPE1", b"\0somebody"),
        (b"TXXX", b"\0replaygain_track_gain\0-3 dB"),
        (b"TXXX", b"\0genblaze:manifests\0{}"),
        (b"COMM", b"\0eng\0a comment"),
        (b"APIC", picture),
        (b"PRIV", b"someone@test\0" + rng.randbytes(30)),
        (b"GEOB", b"\0text/plain\0a.txt\0\0" + b"x" * 20),
    ]
    body = b""
    for kind, content in rng.sample(known, rng.choice([1, 2, 4, 8])):
        size = struct.pack(">I", len(content)) if version == 3 else synchsafe(len(content))
        body += kind + size + b"\0\0" + content
    body += bytes(rng.choice([0, 0, 1, 9, 10, 60, 1024]))
    return b"ID3" + bytes([version, 0, 0]) + synchsafe(len(body)) + body


def _ape_tag(rng: random.Random) -> bytes:
    items = b"".join(
        struct.pack("<II", len(value), 0) + name + b"\0" + value
        for name, value in ((b"Title", b"a title"), (b"Artist", rng.randbytes(4).hex().encode()))
    )
    footer = struct.pack("<IIII", 2000, len(items) + 32, 2, 0) + bytes(8)
    header = struct.pack("<IIII", 2000, len(items) + 32, 2, 0xA000_0000) + bytes(8)
    return b"APETAGEX" + header + items + b"APETAGEX" + footer


def _id3v1(rng: random.Random) -> bytes:
    title = rng.choice([b"a title", b"caf\xe9"])
    return b"TAG" + title.ljust(30, b"\0") + bytes(60) + b"2025" + bytes(30) + b"\x0c"


def mp3(rng: random.Random) -> bytes:
    """Return an MP3 with any of the tags in front of and behind the sound, or none."""
    rate = rng.choice([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])
    sound = encoded(
        "mp3",
        "libmp3lame",
        "s16p",
        rate=rate,
        layout=rng.choice(["mono", "stereo"]),
        bit_rate=rng.choice([32_000, 64_000]),
    )
    if rng.random() < 0.3:
        # Without the first frame, which only tells of the others.
        sound = sound[sound.find(sound[:2], 4) :]
    front = id3_tag(rng) if rng.random() < 0.7 else b""
    behind = _ape_tag(rng) if rng.random() < 0.25 else b""
    return front + sound + behind + (_id3v1(rng) if rng.random() < 0.3 else b"")


def _comments(rng: random.Random) -> bytes:
    known = [b"TITLE=caf\xc3\xa9", b"artist=somebody", b"TITLE=again", b"EMPTY=", b"GENBLAZE=no"]
    texts = rng.sample(known, rng.randint(0, 5))
    vendor = rng.choice([b"", b"by hand", b"reference libFLAC 1.4.3 20230623"])
    body = struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", len(texts))
    return body + b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _flac_picture(rng: random.Random) -> bytes:
    image = rng.randbytes(rng.randrange(100))
    head = struct.pack(">I", 3) + struct.pack(">I", 9) + b"image/png" + struct.pack(">I", 0)
    return head + struct.pack(">5I", 1, 1, 24, 0, len(image)) + image


def flac(rng: random.Random) -> bytes:
    """Return a FLAC with any of the metadata blocks, in any order and number."""
    data = encoded(
        "flac",
        "flac",
        rng.choice(["s16", "s32"]),
        rate=rng.choice([8000, 22050, 44100, 96000]),
        layout=rng.choice(["mono", "stereo"]),
    )
    at, is_last = 4, False
    while not is_last:
        is_last, length = data[at] >= 0x80, int.from_bytes(data[at + 1 : at + 4])
        at += 4 + length
    known = [
        (1, bytes(rng.choice([0, 1, 40, 4096]))),
        (1, bytes(rng.randrange(100))),
        (2, b"Test" + rng.randbytes(rng.randrange(40))),
        (3, b"\xff" * 8 + bytes(10)),
        (4, _comments(rng)),
        (6, _flac_picture(rng)),
    ]
    blocks = [(0, data[8:42]), *rng.sample(known, rng.randint(0, 6))]
    head = b"".join(
        bytes([kind | 0x80 * (number == len(blocks))]) + len(body).to_bytes(3) + body
        for number, (kind, body) in enumerate(blocks, 1)
    )
    return b"fLaC" + head + data[at:] + (_id3v1(rng) if rng.random() < 0.1 else b"")
