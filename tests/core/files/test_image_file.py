"""Image files: geometry, transparency, orientation, exact bytes, and complete files or none."""

import numpy as np
import PIL
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files.image_file import (
    LABEL_HEIGHT,
    contact_sheet,
    fill_and_crop,
    fit_images,
    from_bytes,
    read_image,
    save_frame,
    sheet_of,
    to_bytes,
    to_images,
)
from comfyui_sana_video.sana_video_core.files.image_reader import (
    opened_image,
    pixel_aspect,
    square_pixels,
    upright,
)
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def stripes(*colours, width=30, height=20, horizontal=False):
    """Equal stripes, left to right or (horizontal) top to bottom, each `width` x `height` pixels."""
    steps = len(colours)
    size = (width, height * steps) if horizontal else (width * steps, height)
    picture = Image.new("RGB", size)
    for index, colour in enumerate(colours):
        corner = (0, index * height) if horizontal else (index * width, 0)
        picture.paste(colour, (*corner, corner[0] + width, corner[1] + height))
    return picture


def colour(pixels, row, column):
    """The bytes of one pixel of [..., 3, 1, H, W] or [3, H, W]."""
    flat = pixels.reshape(3, *pixels.shape[-2:])
    return tuple(to_bytes(flat)[row, column].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_survives_the_way_to_pixels_and_back(dtype):
    array = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    assert np.array_equal(to_bytes(from_bytes(array).to(dtype)), array)


def test_bytes_truncate_and_clamp_as_the_original():
    pixels = torch.tensor([-2.0, -1.0, 0.0, 0.9999, 1.0, 2.0]).expand(3, 1, 6)
    assert to_bytes(pixels)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_half_precision_is_scaled_in_float32():
    x = torch.tensor([0.2197265625]).expand(3, 1, 1)  # exact in bfloat16; 127.5·x + 127.5 = 155.515 is not
    assert to_bytes(x.bfloat16())[0, 0, 0] == to_bytes(x)[0, 0, 0] == 155
    assert to_bytes(torch.full((3, 1, 1), 0.99, dtype=torch.bfloat16))[0, 0, 0] == 253


@pytest.mark.parametrize("pixels", [torch.zeros(1, 4, 4), torch.zeros(4, 4), torch.zeros(3, 4, 4).byte()])
def test_tensors_of_another_shape_are_refused(pixels):
    with pytest.raises(InputError, match="height, width"):
        to_bytes(pixels)


def test_a_wide_picture_loses_its_sides_and_a_tall_one_its_ends():
    wide = fill_and_crop(stripes(RED, GREEN, BLUE, width=20, height=20), 10, 10)
    tall = fill_and_crop(stripes(RED, GREEN, BLUE, width=20, height=20, horizontal=True), 10, 10)
    assert wide.size == tall.size == (10, 10)
    assert (np.asarray(wide)[:, 3:7] == GREEN).all()
    assert (np.asarray(tall)[3:7] == GREEN).all()


def test_filling_is_scaling_by_lanczos_and_then_cropping():
    noise = np.random.default_rng(0).integers(0, 256, (40, 120, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    expected = picture.resize((60, 20), Image.Resampling.LANCZOS).crop((20, 0, 40, 20))
    difference = np.asarray(fill_and_crop(picture, 20, 20)).astype(int) - np.asarray(expected)
    assert abs(difference).max() <= 1


def test_the_crop_is_centered_and_nothing_is_squeezed():
    picture = fill_and_crop(stripes(RED, GREEN, BLUE, WHITE, width=16, height=32), 32, 32)
    assert np.array_equal(np.asarray(picture), np.asarray(stripes(GREEN, BLUE, width=16, height=32)))


def test_image_becomes_one_frame(tmp_path):
    stripes(RED, GREEN).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", width=48, height=16)
    assert pixels.shape == (1, 3, 1, 16, 48)
    assert pixels.dtype == torch.float32
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert colour(pixels, 8, 4) == RED
    assert colour(pixels, 8, 44) == GREEN


# the upright picture's corners (upper left, upper right, lower left, lower right), by EXIF's definition of
# where row 0 and column 0 of the file are shown
ORIENTATIONS = dict(enumerate(["1234", "2143", "4321", "3412", "1324", "3142", "4231", "2413"], 1))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_all_eight_ways_to_hold_a_camera_come_upright(tmp_path, orientation, suffix):
    greys = np.array([[50, 100], [150, 200]], np.uint8).repeat(32, 0).repeat(48, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(greys).convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif)
    size = {"width": 96, "height": 64} if orientation < 5 else {"width": 64, "height": 96}
    pixels = read_image(tmp_path / f"a.{suffix}", **size)
    corners = [colour(pixels, row, column)[0] for row in (8, -8) for column in (8, -8)]
    assert "".join(str(round(grey / 50)) for grey in corners) == ORIENTATIONS[orientation]


@pytest.mark.parametrize("orientation, square", [(1, (80, 40)), (6, (40, 80))])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pixels_that_are_not_square_are_drawn_out(tmp_path, suffix, orientation, square):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = stripes(RED, GREEN, width=20, height=40)
    # 100 dots an inch across and 200 down: each is twice as wide as high
    picture.save(tmp_path / f"a.{suffix}", dpi=(100, 200), exif=exif, quality=95)
    with opened_image(tmp_path / f"a.{suffix}") as image:
        aspect = pixel_aspect(image)
        assert square_pixels(upright(image, "a"), aspect).size == square


@pytest.mark.parametrize("dpi", [(72, 0), (72, 1), (300, 299)])
def test_mistaken_and_equal_densities_change_nothing(tmp_path, dpi):
    stripes(RED, GREEN).save(tmp_path / "a.png", dpi=dpi)
    assert colour(read_image(tmp_path / "a.png", width=60, height=20), 10, 28) == RED


def test_orientation_of_a_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left side comes to the top
    stripes(RED, GREEN).save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png", width=20, height=60)
    assert colour(pixels, 5, 10) == RED
    assert colour(pixels, 55, 10) == GREEN


def test_transparency_lies_on_black(tmp_path):
    picture = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 128), (0, 0, 8, 4))
    picture.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", width=8, height=8)
    assert colour(pixels, 1, 4) == (128, 128, 128)
    assert colour(pixels, 6, 4) == (0, 0, 0)


def test_palette_transparency_lies_on_black(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(0, (0, 0, 8, 4))
    picture.save(tmp_path / "a.gif", transparency=1)
    pixels = read_image(tmp_path / "a.gif", width=8, height=8)
    assert colour(pixels, 1, 4) == RED
    assert colour(pixels, 6, 4) == (0, 0, 0)


def test_sixteen_bit_grey_is_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)).save(tmp_path / "a.png")
    assert colour(read_image(tmp_path / "a.png", width=8, height=8), 4, 4) == (0x80, 0x80, 0x80)


RAMP = np.linspace(0, 255, 256)[None].repeat(8, 0)


@pytest.mark.parametrize(
    "values, suffix, warned",
    [
        ((RAMP * 257).astype(np.uint16), "png", False),
        ((RAMP * 257).astype(np.uint16), "tif", False),
        ((RAMP * 257).astype(">u2"), "tif", False),
        ((RAMP * 257).astype(np.int32), "tif", True),
        ((RAMP / 255).astype(np.float32), "tif", False),
        (RAMP.astype(np.float32), "tif", True),
        ((RAMP * 257).astype(np.float32), "tif", True),
    ],
)
def test_greys_of_every_depth_keep_their_range(tmp_path, caplog, values, suffix, warned):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    made = to_bytes(read_image(tmp_path / f"a.{suffix}", width=256, height=8)[0, :, 0])[4, :, 0]
    assert abs(made.astype(int) - RAMP[0].astype(int)).max() <= 1
    assert bool(caplog.records) == warned, "a guess is told"


def test_floats_above_white_are_highlights_and_nan_is_refused(tmp_path):
    values = (RAMP / 100).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert colour(read_image(tmp_path / "a.tif", width=256, height=8), 4, 50) == (127, 127, 127)
    assert colour(read_image(tmp_path / "a.tif", width=256, height=8), 4, 200) == WHITE
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(FileError, match=r"a\.tif.*NaN"):
        read_image(tmp_path / "a.tif", width=8, height=8)


OLD = pytest.mark.skipif(PIL.__version__ < "11", reason="an older Pillow can't read what it writes")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", pytest.param("YCbCr", marks=OLD), "RGBA"])
def test_every_mode_is_read(tmp_path, mode):
    Image.new("RGB", (8, 8), WHITE).convert(mode).save(tmp_path / "a.tif")
    assert min(colour(read_image(tmp_path / "a.tif", width=8, height=8), 4, 4)) > 250


def test_of_a_moving_picture_the_first_is_taken_with_a_word(tmp_path, caplog):
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert colour(read_image(tmp_path / "a.gif", width=8, height=8), 4, 4) == RED
    assert "its first picture is used" in caplog.text


def test_pictures_that_are_too_large_are_refused_before_they_are_read(tmp_path):
    for mode, side, words in (("1", 14000, "178956970"), ("L", 10000, "10000x10000 pixels")):
        Image.new(mode, (side, side)).save(tmp_path / "a.png")
        with pytest.raises(FileError, match=f"too large.*{words}.*Save it smaller"):
            read_image(tmp_path / "a.png", width=8, height=8)


def test_a_line_of_100_000_pixels_is_read(tmp_path):
    Image.new("RGB", (100_000, 1), RED).save(tmp_path / "a.png")
    assert colour(read_image(tmp_path / "a.png", width=832, height=480), 4, 4) == RED


def test_a_phone_s_heic_is_named(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(FileError, match=r"a\.heic.*a HEIC or AVIF picture, as phones make them; open"):
        read_image(tmp_path / "a.heic", width=8, height=8)


@pytest.mark.parametrize(
    "images, words",
    [
        (torch.full((1, 8, 8, 3), 200.0), "values up to 200 were given; white is 1"),
        (torch.full((1, 8, 8, 3), torch.nan), "NaN"),
        (torch.full((1, 8, 8, 3), torch.inf), "NaN"),
        (torch.full((1, 8, 8, 3), 200, dtype=torch.uint8), "uint8"),
    ],
)
def test_pictures_of_a_host_with_impossible_values_are_refused(images, words):
    with pytest.raises(InputError, match=words):
        fit_images(images, width=8, height=8)


def test_pictures_of_a_host_are_clipped_with_a_word_if_it_is_much(caplog):
    images = torch.linspace(-0.05, 1.05, 64).view(1, 8, 8, 1).expand(1, 8, 8, 3)
    assert fit_images(images, width=8, height=8).abs().max() == 1
    assert not caplog.records
    images = torch.linspace(-1, 40, 64).pow(3).clamp(-2, 99).view(1, 8, 8, 1).expand(1, 8, 8, 3) / 70
    fit_images(images, width=8, height=8)
    assert "clipped" in caplog.text


@pytest.mark.parametrize("keep", [0, 20, 60, 200])
def test_a_truncated_image_is_refused_with_a_reason(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:keep])
    with pytest.raises(FileError, match=r"a\.png.*cannot be read as an image.*save it as PNG"):
        read_image(tmp_path / "a.png", width=8, height=8)


def test_a_picture_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Image, "open", refuse)  # as root, everything may be read
    with pytest.raises(FileError, match=r"a\.png” may not be read"):
        read_image(tmp_path / "a.png", width=8, height=8)


def test_a_missing_image_and_a_folder_are_refused_with_a_reason(tmp_path):
    for path in (tmp_path / "no.png", tmp_path):
        with pytest.raises(FileError, match="no image file"):
            read_image(path, width=8, height=8)


def test_an_impossible_size_is_refused(tmp_path):
    save_frame(torch.zeros(3, 8, 8), tmp_path / "a.png")
    with pytest.raises(InputError, match="0x8"):
        read_image(tmp_path / "a.png", width=0, height=8)


def test_saved_frame_comes_back_exactly(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    pixels = from_bytes(array)
    save_frame(pixels, tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png", width=24, height=16)[0, :, 0], pixels)


def test_a_failed_save_keeps_the_older_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    save_frame(torch.zeros(3, 8, 8), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(FileError, match="No space left"):
        save_frame(torch.ones(3, 8, 8), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_only_png_names_are_accepted(tmp_path):
    with pytest.raises(InputError, match=r"\.png"):
        save_frame(torch.zeros(3, 8, 8), tmp_path / "a.jpg")


def test_contact_sheet_lays_frames_out_in_rows_with_labels(tmp_path):
    values = [-1.0, -0.5, 0.0, 0.5, 1.0]
    frames = ((f"{index}", torch.full((3, 32, 64), value)) for index, value in enumerate(values))
    contact_sheet(frames, tmp_path / "sheet.png", columns=3, cell_width=40)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    cell_height = 20 + LABEL_HEIGHT
    assert sheet.shape == (2 * cell_height, 3 * 40, 3)
    for index, value in enumerate(values):
        row, column = divmod(index, 3)
        cell = sheet[row * cell_height : (row + 1) * cell_height, column * 40 : (column + 1) * 40]
        assert (cell[:20] == int(127.5 * value + 127.5)).all()
        assert cell[20:].max() > 100, "the label is missing"
    assert sheet[cell_height:, 80:].max() == 0


def test_contact_sheet_takes_any_label_and_other_sizes(tmp_path):
    frames = [("a very long label that does not fit", torch.ones(3, 32, 32)), ("猫 …", torch.ones(3, 16, 64))]
    contact_sheet(frames, tmp_path / "sheet.png", cell_width=32)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (32 + LABEL_HEIGHT, 64, 3)
    assert (sheet[:32] == 255).all()


def test_an_empty_or_impossible_contact_sheet_is_refused(tmp_path):
    with pytest.raises(InputError, match="no frames"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(InputError, match="0 columns"):
        contact_sheet([("", torch.ones(3, 8, 8))], tmp_path / "sheet.png", columns=0)
    assert not list(tmp_path.iterdir())


# --- a host's pictures [n, H, W, 3] in [0, 1]


def _pictures(count=2, height=20, width=30, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(0))


def test_pictures_become_frames_one_by_one():
    images = _pictures(3)
    frames = fit_images(images, width=16, height=8)
    assert frames.shape == (1, 3, 3, 8, 16)
    for number, image in enumerate(images):
        bytes_of = to_bytes(image.movedim(-1, 0) * 2 - 1)
        expected = from_bytes(np.asarray(fill_and_crop(Image.fromarray(bytes_of), 16, 8)))
        assert torch.equal(frames[0, :, number], expected)


def test_pictures_of_the_right_size_stay_as_they_are():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 8, 16, 3), dtype=np.uint8)) / 255
    frames = fit_images(images, width=16, height=8)
    assert torch.allclose(frames[0, :, 0], images[0].movedim(-1, 0) * 2 - 1, atol=1e-6)
    assert torch.allclose(to_images([frames], 1), images, atol=1e-6)


def test_pictures_are_center_cropped_and_clamped():
    wide = torch.zeros(1, 10, 40, 3)
    wide[:, :, 15:25, 1] = 9.0  # brighter than white
    frames = fit_images(wide, width=10, height=10)
    assert colour(frames, 5, 5) == (0, 255, 0)
    assert to_bytes(frames[0, :, 0])[..., 1].min() == 255


def test_the_fourth_channel_of_a_picture_is_dropped():
    images = _pictures(1, channels=4)
    assert torch.equal(fit_images(images, width=8, height=8), fit_images(images[..., :3], width=8, height=8))


@pytest.mark.parametrize("shape", [(20, 30, 3), (1, 3, 20, 30), (1, 20, 30, 1), (0, 20, 30, 3)])
def test_other_shapes_than_a_hosts_pictures_are_refused(shape):
    with pytest.raises(InputError, match="rows, columns, 3"):
        fit_images(torch.zeros(shape), width=8, height=8)


def test_pieces_become_pictures_row_after_row():
    pixels = torch.rand(2, 3, 9, 4, 6, generator=torch.Generator().manual_seed(1)) * 3 - 1.5
    images = to_images(iter(pixels.split((1, 4, 4), dim=2)), 9)
    assert images.shape == (18, 4, 6, 3)
    for row in range(2):
        for number in range(9):
            expected = ((pixels[row, :, number] + 1) / 2).clamp(0, 1).movedim(0, -1)
            assert torch.equal(images[9 * row + number], expected)
    assert images.min() == 0
    assert images.max() == 1
    assert images.dtype == torch.float32


def test_without_pieces_there_are_no_pictures():
    with pytest.raises(InputError, match="nothing to decode"):
        to_images(iter(()), 9)


def test_a_sheet_of_pictures_lies_row_by_row():
    pictures = ((f"{n}", Image.new("RGB", (20, 10), (30 * n, 0, 0))) for n in range(7))
    sheet = np.asarray(sheet_of(pictures, columns=4, cell_width=40))
    cell = 20 + LABEL_HEIGHT
    assert sheet.shape == (2 * cell, 160, 3)
    shown = [int(sheet[10 + cell * (number // 4), 20 + 40 * (number % 4), 0]) for number in range(7)]
    assert shown == [30 * number for number in range(7)]
    assert not sheet[cell:, 120:].any()
