"""Contact sheet: small pictures in a grid with column headings."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from transfer.images.decoding import Pixels

EDGE = 160  # of a picture on the sheet, pixels
_GAP = 6
_HEADING_HEIGHT = 24
_BACKGROUND, _INK = "white", "black"


def draw(rows: Sequence[Pixels], columns: Sequence[str]) -> Image.Image:
    """Draw pictures in a grid.

    Args:
        rows: for each row of the grid, an array of shape (columns, size, size, 3), RGB, 0 to 255.
        columns: the headings.
    """
    width, height = (count * (EDGE + _GAP) + _GAP for count in (len(columns), len(rows)))
    sheet = Image.new("RGB", (width, height + _HEADING_HEIGHT), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, heading in enumerate(columns):
        pen.text((_GAP + column * (EDGE + _GAP), _GAP), heading, fill=_INK, font=font)
    for row, pictures in enumerate(rows):
        for column, pixels in enumerate(pictures):
            small = Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.LANCZOS)
            sheet.paste(small, (_GAP + column * (EDGE + _GAP), _HEADING_HEIGHT + _GAP + row * (EDGE + _GAP)))
    return sheet
