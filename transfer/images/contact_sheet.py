"""Contact sheet: many small pictures on one, in rows and named columns."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from transfer.images.decoding import Pixels

EDGE = 160  # of a picture on the sheet, pixels
_GAP = 6
_HEADING = 24
_PAPER, _INK = "white", "black"


def draw(rows: Sequence[Pixels], columns: Sequence[str]) -> Image.Image:
    """Lay out pictures.

    Args:
        rows: an array of shape (columns, size, size, 3) each, RGB, 0 to 255.
        columns: the headings.
    """
    width, height = (count * (EDGE + _GAP) + _GAP for count in (len(columns), len(rows)))
    sheet = Image.new("RGB", (width, height + _HEADING), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for number, heading in enumerate(columns):
        pen.text((_GAP + number * (EDGE + _GAP), _GAP), heading, fill=_INK, font=font)
    for down, row in enumerate(rows):
        for across, pixels in enumerate(row):
            small = Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.LANCZOS)
            sheet.paste(small, (_GAP + across * (EDGE + _GAP), _HEADING + _GAP + down * (EDGE + _GAP)))
    return sheet
