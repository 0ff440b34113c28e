"""The random colours, textures and clutter of the generated images (see `shapes`)."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw


def texture(
    rng: np.random.Generator, height: int, width: int, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Mixes two colours as float32 [height, width, 3]: plain, a gradient, stripes, checks or clouds."""
    kind = rng.integers(5)
    if kind == 4:
        cells = rng.integers(3, 12, size=2)
        noise = Image.fromarray(rng.integers(0, 256, size=cells, dtype=np.uint8))
        blend = (
            np.asarray(noise.resize((int(width), int(height)), Image.Resampling.BICUBIC), np.float32) / 255
        )
    else:
        angle, frequency = rng.uniform(0, np.pi), 1 / rng.uniform(5, 20)
        y = np.arange(height, dtype=np.float32)[:, None]
        x = np.arange(width, dtype=np.float32)[None, :]
        cos, sin = np.float32(frequency * np.cos(angle)), np.float32(frequency * np.sin(angle))
        along = x * cos + y * sin
        if kind == 0:
            blend = np.zeros((height, width), np.float32)
        elif kind == 1:
            blend = (along - along.min()) / np.ptp(along)
        elif kind == 2:
            blend = (np.floor(along).astype(np.int32) & 1).astype(np.float32)
        else:
            cells = np.floor(along).astype(np.int32) + np.floor(y * cos - x * sin).astype(np.int32)
            blend = (cells & 1).astype(np.float32)
    first, second = np.float32(first), np.float32(second)
    return first + blend[..., None] * (second - first)


def draw_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws clutter that belongs to no class into `image` (float32): strokes, blots and scribbled words."""
    canvas = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    size = np.array(canvas.size)

    def color() -> tuple[int, ...]:
        return tuple(int(channel) for channel in rng.integers(0, 256, size=3))

    for _ in range(rng.integers(1, 6)):
        points = np.cumsum([rng.random(2) * size, *rng.normal(0, 50, size=(rng.integers(1, 5), 2))], axis=0)
        draw.line([tuple(p) for p in points.tolist()], fill=color(), width=int(rng.integers(1, 6)))
    for _ in range(rng.integers(0, 5)):
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = sum(
            rng.uniform(0.1, 0.4) * np.sin(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)
        )
        radii = rng.uniform(6, 32) * np.maximum(1 + waves, 0.15)
        points = rng.random(2) * size + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.polygon([tuple(p) for p in points.tolist()], fill=color())
    for _ in range(rng.integers(0, 3)):
        origin, letter, ink = rng.random(2) * size, rng.uniform(6, 14), color()
        for position in range(rng.integers(3, 10)):
            corner = origin + [position * letter * 1.3, 0]
            strokes = corner + rng.random((4, 2)) * [letter, 1.6 * letter]
            draw.line([tuple(p) for p in strokes.tolist()], fill=ink, width=2)
    image[:] = np.asarray(canvas)


def near(rng: np.random.Generator, color: np.ndarray, distance: int = 40) -> np.ndarray:
    """Draws a colour that differs from `color` by at most `distance` in each channel."""
    return np.clip(color + rng.integers(-distance, distance + 1, size=3), 0, 255)


def color_of(hue: float, saturation: float, value: float) -> np.ndarray:
    """Returns RGB 0..255, float64 [3], of a hue (in turns, any number), a saturation and a value (0..1)."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
