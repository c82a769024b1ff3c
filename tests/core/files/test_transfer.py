"""Copies to the CPU: the values and their flag, one behind what is made, nothing lost to an error."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.files.image_file import frame_bytes, to_bytes, to_images
from comfyui_sana_video.sana_video_core.files.transfer import Transfer, arriving, one_behind
from support.pack import same

SHAPES = [(2, 3, 4), (), (0,), (1,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
@pytest.mark.parametrize("flag", [True, False])
def test_values_and_flag_arrive(dtype, flag):
    for shape in SHAPES:
        values = torch.arange(24).to(dtype)[: max(1, torch.Size(shape).numel())]
        values = values.view(shape) if torch.Size(shape).numel() else values[:0]
        arrived, said = Transfer(values, torch.tensor(flag)).arrived()
        assert same(arrived, values)
        assert arrived.shape == values.shape
        assert said is flag


def test_a_view_of_another_order_arrives_as_it_reads():
    values = torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)
    assert same(Transfer(values, torch.tensor(True)).arrived()[0], values)


def _counting(made, error=None):
    for number in range(3):
        made.append(number)
        yield number
    if error is not None:
        raise error


def test_an_item_comes_once_the_next_is_made():
    made = []
    seen = [(item, list(made)) for item in one_behind(_counting(made))]
    assert seen == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]
    assert list(one_behind([])) == []


def test_what_waits_comes_before_a_none():
    made = []

    def items():
        for item in (0, 1, None, 2, None):
            made.append(item)
            yield item

    assert [(item, len(made)) for item in one_behind(items())] == [(0, 2), (1, 3), (2, 5)]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt("stop")])
def test_an_error_comes_after_what_was_made_before_it(error):
    items = one_behind(_counting([], error))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error)) as raised:
        next(items)
    assert raised.value is error


def test_a_closed_consumer_makes_no_more():
    made = []
    items = one_behind(_counting(made))
    next(items)
    items.close()
    assert made == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bytes_of_many_frames_are_those_of_each(dtype):
    pixels = (torch.randn(1, 3, 5, 6, 8, generator=torch.Generator().manual_seed(0)) * 1.2).to(dtype)
    pixels[0, 0, 0, 0, :4] = torch.tensor([-1.0, 1.0, 0.0, 0.9999]).to(dtype)
    made = frame_bytes(pixels)
    assert made.shape == (5, 6, 8, 3)
    assert made.is_contiguous()
    for number, frame in enumerate(made):
        assert frame.numpy().tolist() == to_bytes(pixels[0, :, number]).tolist()


def test_pictures_are_the_formula_s():
    pieces = torch.randn(2, 3, 9, 4, 6, generator=torch.Generator().manual_seed(1)).split((1, 4, 4), dim=2)
    expected = ((torch.cat(pieces, 2) + 1) / 2).clamp(0, 1).movedim(1, -1).flatten(0, 1)
    assert same(to_images(iter(pieces), 9), expected)
    assert [x.tolist() for x in arriving(torch.tensor([[1.0], [2.0]]))] == [[1.0], [2.0]]
