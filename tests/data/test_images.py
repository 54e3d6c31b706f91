"""Images of every kind come out upright and in RGB, or as one line that says why not."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raymrcnn.data.images import decode_annotated_image, decode_image, resolve_image
from raymrcnn.errors import DataError


def encoded(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def gradient(height: int = 20, width: int = 30) -> Image.Image:
    rows = np.linspace(0, 255, height)[:, None] + np.zeros((1, width))
    columns = np.linspace(0, 255, width)[None] + np.zeros((height, 1))
    pixels = np.stack([rows, columns, 255 - columns], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def with_orientation(image: Image.Image, tag: int, fmt: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(image, fmt, exif=exif)


def edge_cases(shared: Path) -> list[dict[str, str]]:
    names = ["path", "format", "mode", "size", "orientation", "result"]
    with (shared / "data/jpeg-edge/observed_pillow13.tsv").open() as stream:
        return list(csv.DictReader(stream, names, delimiter="\t"))


def test_the_odd_jpegs_decode_exactly_where_pillow_decodes_them(shared: Path) -> None:
    for case in edge_cases(shared):
        path = shared / "data/jpeg-edge" / case["path"]
        if case["result"] != "ok":
            with pytest.raises(DataError, match=r"cannot be decoded \(image file is truncated"):
                decode_image(path)
            continue
        width, height = (int(n) for n in case["size"].strip("()").split(","))
        turned = case["orientation"] in ("5", "6", "7", "8")
        image = decode_image(path)
        assert image.shape == ((3, width, height) if turned else (3, height, width)), case["path"]
        assert image.dtype == torch.uint8
        assert image.is_contiguous()


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_rotated_photographs_come_out_alike(shared: Path, kind: str) -> None:
    folder = shared / "data/jpeg-edge/exif_orientation"
    images = [decode_image(folder / f"{kind}_{i}.jpg")[:, ::8, ::8].float() for i in range(9)]
    wrong = images[1].flip(1, 2)
    for image in images:
        assert image.shape == images[1].shape
        # Separately compressed files: equal up to what JPEG loses; a turned one is far off.
        assert (image - images[1]).abs().mean() < 12
    assert (wrong - images[1]).abs().mean() > 30


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_each_orientation_tag_is_undone_exactly(tag: int, fmt: str) -> None:
    upright = gradient()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that makes the stored one
    stored = upright if tag == 1 else upright.transpose(Image.Transpose(undo[tag]))
    image = decode_image(with_orientation(stored, tag, fmt))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(upright))


def test_an_orientation_out_of_range_counts_as_none() -> None:
    image = decode_image(with_orientation(gradient(), 77))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(gradient()))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGB"])
def test_each_pixel_mode_becomes_rgb(mode: str) -> None:
    source = gradient().convert(mode)
    image = decode_image(encoded(source))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(source.convert("RGB")))


def test_cmyk_becomes_rgb_with_its_colours_right_way_round() -> None:
    red = Image.new("RGB", (16, 16), (200, 10, 10)).convert("CMYK")
    red_pixel = decode_image(encoded(red, "JPEG"))[:, 8, 8]
    assert red_pixel[0] > 150
    assert red_pixel[1] < 60


def test_sixteen_bit_gray_keeps_its_upper_eight_bits() -> None:
    deep = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255
    image = decode_image(encoded(Image.fromarray(deep)))
    assert np.array_equal(image[0].numpy(), (deep >> 8).astype(np.uint8))
    assert torch.equal(image[0], image[2])


def test_floating_point_pixels_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    path.write_bytes(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))
    with pytest.raises(DataError, match=r"f.tif: the image has floating-point pixels"):
        decode_image(path)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the image file is empty"),
        (b"GET / HTTP/1.1\r\n\r\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (encoded(gradient())[:-30], "cannot be decoded"),
        (encoded(gradient(200, 300), "JPEG")[:1500], "cannot be decoded"),
        (encoded(gradient())[:12], "not an image|cannot be decoded"),
    ],
)
def test_what_is_no_image_gives_one_line(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(DataError, match=reason) as caught:
            decode_image(source)
        assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.jpg: cannot read the image"):
        decode_image(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="cannot read the image"):
        decode_image(tmp_path)


def test_the_pixel_limit_is_checked_on_the_header_alone() -> None:
    huge = encoded(Image.new("1", (20_000, 6_000)))
    with pytest.raises(DataError, match="20000x6000 pixels, more than the limit of 100000000"):
        decode_image(huge)
    # Cut behind the header: decoding would fail with another message.
    with pytest.raises(DataError, match="more than the limit"):
        decode_image(huge[:60])
    with pytest.raises(DataError, match="more than the limit of 599"):
        decode_image(encoded(gradient()), max_pixels=599)
    assert decode_image(encoded(gradient()), max_pixels=600).shape == (3, 20, 30)


def test_a_bomb_beyond_pillows_own_limit_is_refused_too() -> None:
    header = encoded(Image.new("1", (8, 8)))
    bomb = header[:16] + (60_000).to_bytes(4, "big") * 2 + header[24:]
    with pytest.raises(DataError):
        decode_image(bomb, max_pixels=10**12)


def test_the_size_in_the_annotations_chooses_the_frame() -> None:
    stored = gradient(20, 30)
    data = with_orientation(stored, 6)
    assert decode_annotated_image(data, 20, 30).shape == (3, 30, 20)
    as_stored = decode_annotated_image(data, 30, 20)
    assert np.array_equal(as_stored.permute(1, 2, 0).numpy(), np.asarray(stored))
    with pytest.raises(DataError, match="has 20x30 pixels, its annotations say 31x20"):
        decode_annotated_image(data, 31, 20)


def test_images_are_found_in_each_layout(tmp_path: Path) -> None:
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "train/sub").mkdir(parents=True)
    for name in ("images/val/a.jpg", "train/b.jpg", "train/sub/c.jpg", "images/d.jpg", "e.jpg"):
        (tmp_path / name).touch()
    assert resolve_image(tmp_path, "val", "a.jpg") == tmp_path / "images/val/a.jpg"
    assert resolve_image(tmp_path, "train", "b.jpg") == tmp_path / "train/b.jpg"
    assert resolve_image(tmp_path, "train", "sub/c.jpg") == tmp_path / "train/sub/c.jpg"
    assert resolve_image(tmp_path, "train", "d.jpg") == tmp_path / "images/d.jpg"
    assert resolve_image(tmp_path, "all", "train/b.jpg") == tmp_path / "train/b.jpg"
    assert resolve_image(tmp_path, "all", "e.jpg") == tmp_path / "e.jpg"
    assert resolve_image(tmp_path, "train", "x.jpg") == tmp_path / "train/x.jpg"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../../x", "..", "../..", "", "a\0b"]
)
def test_no_image_name_leads_out_of_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="does not stay inside the data root"):
        resolve_image(tmp_path / "root", "train", name)


def test_a_root_whose_name_begins_alike_is_another_root(tmp_path: Path) -> None:
    (tmp_path / "root-secret").mkdir()
    (tmp_path / "root-secret/a.jpg").touch()
    with pytest.raises(DataError, match="does not stay"):
        resolve_image(tmp_path / "root", "train", "../../root-secret/a.jpg")
