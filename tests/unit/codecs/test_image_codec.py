import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lepton_tasks.codecs.image import ImageCodec, open_picture
from lepton_tasks.core.errors import DataError

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"]


def encoded(pixels, format_="PNG", **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    picture.save(stream, format_, **options)
    return stream.getvalue()


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(width=300, height=200):
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([across % 256, down % 256, (across + down) % 256], axis=-1).astype(np.uint8)


def in_mode(mode, width, height, seed):
    picture = Image.fromarray(noise(width, height, seed))
    if mode.startswith("I"):
        wide = np.random.default_rng(seed).integers(0, 65_536, (height, width), dtype=np.uint16)
        return Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
    return picture.convert(mode)


@settings(max_examples=150)
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    seed=st.integers(0, 9),
    codec=st.builds(
        ImageCodec,
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        channels=st.sampled_from([1, 3, 4]),
        resize=st.sampled_from(["stretch", "crop", "pad"]),
    ),
)
def test_any_picture_gives_the_declared_shape_and_the_same_pixels_each_time(mode, width, height, seed, codec):
    payload = encoded(in_mode(mode, width, height, seed), "TIFF" if mode in {"CMYK", "I"} else "PNG")
    pixels = codec.decode(payload)
    assert pixels.shape == (codec.height, codec.width, codec.channels)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, codec.decode(payload))


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_picture_of_the_right_size_keeps_every_pixel(format_):
    pixels = noise(31, 17)
    np.testing.assert_array_equal(ImageCodec(17, 31).decode(encoded(pixels, format_)), pixels)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_read_too(format_):
    pixels = ImageCodec(8, 8).decode(encoded(np.full((40, 40, 3), (200, 30, 60), np.uint8), format_))
    assert np.abs(pixels.astype(int) - (200, 30, 60)).max() <= 8


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = np.array([[0, 256, 32_768, 65_535]], np.uint16)
    assert ImageCodec(1, 4, channels=1).decode(encoded(wide)).ravel().tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_on_white_unless_four_channels_keep_it():
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    assert ImageCodec(1, 2).decode(encoded(clear)).tolist() == [[[255, 255, 255], [10, 20, 30]]]
    assert ImageCodec(1, 2, channels=4).decode(encoded(clear)).tolist() == clear.tolist()


def test_a_transparent_palette_entry_is_laid_on_white():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    assert ImageCodec(1, 2).decode(encoded(palette, transparency=0)).tolist() == [[[255, 255, 255], [50, 60, 70]]]


@pytest.mark.parametrize(("turn", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_exif_orientation_turns_the_picture_upright(turn, corner):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = 255  # the stored top left
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = ImageCodec(2, 2, channels=1).decode(encoded(pixels, "JPEG", exif=exif.tobytes()))[..., 0]
    assert np.unravel_index(upright.argmax(), upright.shape) == corner
    assert np.sort(upright.ravel())[-2] < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture():
    payload = encoded(photo(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert ImageCodec(4, 4).decode(payload).shape == (4, 4, 3)


def test_shrinking_averages_instead_of_picking_pixels():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(ImageCodec(8, 8, channels=1).decode(encoded(board)).astype(int) - 127).max() <= 2


def test_a_jpeg_decoded_at_a_fraction_of_its_size_is_close_to_the_whole_one():
    payload = encoded(Image.fromarray(photo(64, 48)).resize((1024, 768)), "JPEG", quality=95)
    small = ImageCodec(48, 64).decode(payload).astype(int)
    whole = np.asarray(open_picture(payload, "RGB").picture.resize((64, 48), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - whole).mean() < 1.5


@pytest.mark.parametrize("turn", [1, 6])
def test_an_opened_picture_tells_its_upright_size_at_full_scale(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    opened = ImageCodec(30, 30).open(encoded(photo(300, 200), "JPEG", exif=exif.tobytes()))
    assert (opened.width, opened.height) == ((300, 200) if turn == 1 else (200, 300))
    assert opened.picture.size == ((75, 50) if turn == 1 else (50, 75))  # a quarter; an eighth would be below 30


@settings(max_examples=60)
@given(
    width=st.integers(40, 300),
    height=st.integers(40, 300),
    codec=st.builds(
        ImageCodec,
        height=st.integers(30, 90),
        width=st.integers(30, 90),
        channels=st.just(1),
        resize=st.sampled_from(["stretch", "crop", "pad"]),
    ),
    format_=st.sampled_from(["PNG", "JPEG"]),
)
def test_a_point_is_placed_where_its_pixels_come_to_lie(width, height, codec, format_):
    pixels = np.zeros((height, width), np.uint8)
    left, top, right, bottom = 0.4 * width, 0.45 * height, 0.55 * width, 0.6 * height
    pixels[round(top) : round(bottom), round(left) : round(right)] = 255
    array = codec.decode(encoded(pixels, format_))[..., 0].astype(float)
    corners = np.round([[left, top], [right, bottom]])
    low, high = np.clip(codec.map_points(corners, width, height), 0, (codec.width, codec.height))  # `crop` cuts
    down, across = np.mgrid[0 : codec.height, 0 : codec.width] + 0.5
    centre = np.array([(across * array).sum(), (down * array).sum()]) / array.sum()
    np.testing.assert_allclose(centre, (low + high) / 2, atol=0.75)
    assert array.sum() / 255 == pytest.approx(np.prod(high - low), rel=0.15)


def test_crop_takes_the_middle_and_pad_keeps_all():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert ImageCodec(10, 10, resize="crop").decode(encoded(wide))[:, 1:-1].min() == 255
    padded = ImageCodec(12, 12, channels=1, resize="pad").decode(encoded(wide))[..., 0]
    assert padded[:4].max() == padded[8:].max() == 0
    assert padded[4:8, 5:7].min() == 255
    assert padded[4:8, 0].max() == 0


def test_four_colour_print_jpeg_becomes_rgb():
    red = Image.fromarray(np.full((16, 16, 3), (250, 5, 5), np.uint8)).convert("CMYK")
    assert np.abs(ImageCodec(2, 2).decode(encoded(red, "JPEG")).astype(int) - (250, 5, 5)).max() <= 12


def png_claiming(width, height):
    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture, whatever its name says\n" * 9, "not a picture"),
    "a page of PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "JPEG cut in the middle": (encoded(photo(), "JPEG")[:4_000], "truncated"),
    "JPEG cut in the header": (encoded(photo(), "JPEG")[:100], "cannot be decoded"),
    "PNG cut in the middle": (encoded(noise(99, 99))[:5_000], "truncated"),
    "too large": (png_claiming(9_000, 9_000), "9000 x 9000"),
    "a bomb": (png_claiming(60_000, 60_000), "bomb"),
    "floating point": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize(("payload", "reason"), BAD.values(), ids=BAD)
def test_bad_bytes_are_refused_with_a_reason_that_is_the_same_each_time(payload, reason):
    with pytest.raises(DataError) as first:
        ImageCodec(8, 8).decode(payload)
    with pytest.raises(DataError) as second:
        ImageCodec(8, 8).decode(bytes(bytearray(payload)))
    assert reason in str(first.value)
    assert str(first.value) == str(second.value)


@settings(max_examples=100)
@given(at=st.integers(0, 3_000), value=st.integers(0, 255), format_=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]))
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
def test_a_damaged_byte_gives_a_picture_or_a_data_error(at, value, format_):
    payload = bytearray(encoded(photo(60, 40), format_))
    payload[at % len(payload)] = value
    try:
        pixels = ImageCodec(9, 9).decode(bytes(payload))
    except DataError:
        return
    assert pixels.shape == (9, 9, 3)
