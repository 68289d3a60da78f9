import numpy as np

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
