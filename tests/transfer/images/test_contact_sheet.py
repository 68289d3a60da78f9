import numpy as np
from PIL import Image

from transfer.images import contact_sheet


def test_each_picture_is_in_its_row_and_column() -> None:
    """The middle of each cell of the sheet has the colour of its picture, whatever the picture's size."""
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [90, 90, 90], [200, 200, 200]]], np.uint8)
    rows = [np.broadcast_to(row[:, None, None], (3, 40, 40, 3)) for row in colours]
    sheet = np.asarray(contact_sheet.draw(rows, ["original", "view 1", "view 2"]))
    height, width, _ = sheet.shape
    middles = sheet[-(height // 4) :: -(height // 2)][:2][::-1, width // 6 :: width // 3][:, :3]
    np.testing.assert_array_equal(middles, colours)
    assert (sheet[:20] < 128).any()  # the headings


def test_captions_stand_below_their_pictures() -> None:
    """Each picture has its caption, five stand in a row, and of a long name the end is drawn within its column."""
    pictures = [Image.new("RGB", (160, 120), (0, 0, 200)) for _ in range(6)]
    sheet = contact_sheet.draw_captioned(pictures, [("x" * 300 + ".jpg", "dog 51 %")] * 6)
    pixels = np.asarray(sheet)
    assert sheet.size[0] == 5 * 166 + 6
    assert sheet.size[1] > 2 * 160
    second_row = pixels[sheet.size[1] // 2 :]
    assert (second_row[:, :166] < 50).all(axis=2).any()  # the caption's ink
    assert (second_row[:, 172:] == 255).all()  # nothing of the caption beside its picture
