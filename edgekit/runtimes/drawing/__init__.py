"""Results drawn on images: boxes, masks, skeletons and trails, in a stable colour per class or track.

Every function gives a new image and leaves the one it is given as it is.
"""

from __future__ import annotations

from edgekit.runtimes.drawing.boxes import draw_boxes as draw_boxes
from edgekit.runtimes.drawing.colors import Color as Color
from edgekit.runtimes.drawing.colors import color_of as color_of
from edgekit.runtimes.drawing.colors import text_color_on as text_color_on
from edgekit.runtimes.drawing.lines import line_width as line_width
from edgekit.runtimes.drawing.masks import draw_masks as draw_masks
from edgekit.runtimes.drawing.plates import draw_list as draw_list
from edgekit.runtimes.drawing.skeletons import draw_skeletons as draw_skeletons
from edgekit.runtimes.drawing.trails import draw_trails as draw_trails
