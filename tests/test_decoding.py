"""Picture files decoded: turned the right way up, shrunk while decoding, and what that imports."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from siamese_jax.data import decoding, folder, image_set


def photo(height, width, seed=0):
    """A smooth colour picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(picture, orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_the_right_way_up(orientation):
    data = jpeg(photo(48, 80), orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(
        decoding.decode_picture(Image.open(io.BytesIO(data)), "RGB"), expected
    )
    (size, grey) = decoding.header(None, ("x",), lambda _: data)
    assert size == expected.shape[:2] and not grey


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(orientation):
    data = jpeg(photo(320, 480), orientation)
    whole = decoding.decode_picture(Image.open(io.BytesIO(data)), "RGB")
    for size, shrunk in (((60, 40), 8), ((80, 110), 2), ((200, 300), 1)):
        size = size[::-1] if orientation == 1 else size
        small = decoding.decode_picture(Image.open(io.BytesIO(data)), "RGB", size)
        assert small.shape[:2] == tuple(-(-n // shrunk) for n in whole.shape[:2]), size
        assert small.shape[0] >= size[0] and small.shape[1] >= size[1]
        found, expected = (
            image_set.resize_images(x[None], *size).astype(int) for x in (small, whole)
        )
        assert np.abs(found - expected).max() <= 6 and np.abs(found - expected).mean() < 1


def test_a_picture_that_is_given_is_left_as_it_is():
    picture = Image.open(io.BytesIO(jpeg(photo(48, 80), 6)))
    decoding.decode_picture(picture, "L")
    assert picture.size == (80, 48) and picture.mode == "RGB"


def encoded(values, dtype, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], dtype)).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])  # PPM: of mode I
def test_sixteen_bits_are_scaled(kind):
    data = encoded([0, 100 * 257, 65535], np.uint16, kind)
    np.testing.assert_array_equal(
        decoding.pixels(None, ("x",), lambda _: data, "L").ravel(), [0, 100, 255]
    )


def test_a_png_of_an_older_pillow_is_scaled_too():
    picture = Image.fromarray(np.array([[0, 100 * 257, 65535]], np.int32))
    picture.format = "PNG"
    np.testing.assert_array_equal(decoding.decode_picture(picture, "L").ravel(), [0, 100, 255])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(dtype):
    data = encoded([0, 128, 255], dtype, "TIFF")
    for read in (decoding.header, lambda *args: decoding.pixels(*args, "L")):
        with pytest.raises(
            ValueError, match="x is not a readable image .*32 bits or a sign: save it"
        ):
            read("here", ("x",), lambda _: data)


def test_jpegs_and_pngs_of_one_size_become_one_set(tmp_path):
    for i, ending in enumerate(("jpg", "png", "jpg", "png")):
        place = tmp_path / f"c{i // 2}"
        place.mkdir(exist_ok=True)
        photo(64, 96, i).save(place / f"{i}.{ending}", **({"quality": 95} if i % 2 == 0 else {}))
    found = folder.load_folder(tmp_path, image_size=(16, 24)).images
    for i, image in enumerate(found):
        whole = np.asarray(photo(64, 96, i))[None]
        expected = image_set.resize_images(whole, 16, 24)[0].astype(int)
        np.testing.assert_allclose(image, expected, atol=4 if i % 2 == 0 else 0)


def test_a_single_picture_is_resized_as_one_of_a_stack():
    images = np.random.default_rng(0).integers(0, 256, (5, 90, 70, 3), dtype=np.uint8)
    for size in ((30, 28), (45, 35), (41, 33), (120, 100)):
        stack = image_set.resize_images(images, *size).astype(int)
        single = np.concatenate([image_set.resize_images(x[None], *size) for x in images])
        assert np.abs(single - stack).max() <= 1 and (single != stack).mean() < 1e-3


@pytest.mark.slow
def test_a_process_that_decodes_imports_neither_jax_nor_tfds():
    code = (
        "import siamese_jax.data.decoding, siamese_jax.data.shards, sys;"
        "print([x for x in ('jax', 'tensorflow_datasets', 'flax') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
