"""Folders of pictures: the user's own private images, one folder a class."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field, field_validator

from benchmark.decoded import decoded
from benchmark.errors import UserError
from benchmark.parameters import Configured, spec_text
from benchmark.parts import FEWEST_A_CLASS, Dataset, Part, dataset_of, interleaved, part_of
from benchmark.seeds import Rng

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Named, because Pillow hands some of the formats it would otherwise try (EPS) to an outside interpreter.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class ImageFolder(Configured):
    """Options of `image_folder`.

    Attributes:
        path: Folder with one folder a class; made absolute.
        size: Height and width that every picture is brought to.
        channels: 3 for colour, 1 for grey.
    """

    name: ClassVar[str] = "image_folder"

    path: str = Field(min_length=1, description="folder with one folder a class")
    size: int = Field(32, ge=8, le=512, description="height and width that every picture is brought to, pixels")
    channels: int = Field(3, description="3 for colour, 1 for grey")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return str(Path(path).expanduser().resolve())

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, channels: int) -> int:
        if channels not in (1, 3):
            raise ValueError("should be 3 (colour) or 1 (grey)")
        return channels

    def text(self) -> str:
        """The canonical spec; path and size always stand in it."""
        return spec_text(self.name, {"path": self.path, "size": self.size} | self.changed_parameters())


def image_folder(options: ImageFolder) -> Dataset:
    """The pictures of a folder, cut stratified into 60 % victim, 20 % auxiliary and 20 % test.

    Which part a picture falls into is fixed by the SHA-256 of its name (`CLASS/file.png`), not by the order of the
    files; classes and, within a class, the pictures of a part stand in natural order (2 before 10). Ids count in that
    order over all pictures. Pictures that are equal pixel for pixel after resizing count once: the same picture in two
    parts would hand an attacker its target.

    Raises:
        UserError: The folder or its class folders are missing, a class has fewer than five different pictures, or one
            cannot be read.
    """
    base = Path(options.path)
    return decoded(options.text(), base, lambda: _image_folder(options, base))


def _image_folder(options: ImageFolder, base: Path) -> Dataset:
    by_class = class_files(base)
    if len(by_class) < 2:
        raise UserError(
            f"image_folder: {base} has only the class folder {next(iter(by_class))!r}; it needs at least two"
        )
    for name, paths in by_class.items():
        _enough(base / name, len(paths), "pictures")
    paths = [path for of_class in by_class.values() for path in of_class]
    labels = np.repeat(np.arange(len(by_class)), [len(of_class) for of_class in by_class.values()])
    pixels = read_images(paths, options.size, options.channels)

    first_with: dict[bytes, int] = {}
    for number, picture in enumerate(pixels):
        first_with.setdefault(hashlib.sha256(picture).digest(), number)
    different = sorted(first_with.values())
    dropped = len(paths) - len(different)

    members: dict[str, list[list[int]]] = {"victim": [], "auxiliary": [], "test": []}
    for label, name in enumerate(by_class):
        numbers = [number for number in different if labels[number] == label]
        _enough(base / name, len(numbers), "different pictures")
        shuffled = sorted(numbers, key=lambda number: _name_digest(paths[number], base))
        held_out = len(numbers) // 5
        members["test"].append(sorted(shuffled[:held_out]))
        members["auxiliary"].append(sorted(shuffled[held_out : 2 * held_out]))
        members["victim"].append(sorted(shuffled[2 * held_out :]))
    parts: dict[str, Part] = {}
    for title, of_part in members.items():
        chosen = interleaved(of_part, Rng("image_folder", "order", title))
        parts[title] = part_of(pixels[chosen], labels[chosen], chosen)
    note = f"{dropped} of {len(paths)} pictures are copies of another and were left out" if dropped else ""
    return dataset_of(options.text(), parts["victim"], parts["auxiliary"], parts["test"], list(by_class), note)


def class_files(base: Path) -> dict[str, list[Path]]:
    """The pictures below each class folder of `base`, classes and files in natural order; hidden ones left out.

    Raises:
        UserError: `base` is no folder, has no class folders, or one of them holds no picture.
    """
    if not base.is_dir():
        raise UserError(f"data folder {base} does not exist or is not a folder; check the path")
    try:
        folders = [entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        found = {
            folder.name: sorted((path for path in folder.rglob("*") if _is_picture(path, folder)), key=natural)
            for folder in sorted(folders, key=natural)
        }
    except OSError as error:
        raise UserError(
            f"data folder {error.filename} cannot be read ({error.strerror}); check its permissions"
        ) from None
    if not found:
        raise UserError(
            f"data folder {base} has no class folders; put the pictures of each class into a folder of its own"
        )
    for name, paths in found.items():
        if not paths:
            raise UserError(
                f"class folder {base / name} holds no picture ({' '.join(sorted(ENDINGS))}); add some or remove it"
            )
    return found


def read_images(paths: list[Path], size: int, channels: int) -> np.ndarray:
    """Pictures as 8-bit pixels, [n, channels, size, size].

    Each is turned as its EXIF says; its largest centred square is kept and resampled (Pillow's bicubic filter). A
    picture that already has the size stays as it is. 16-bit grey keeps its upper 8 bits.

    Raises:
        UserError: A file is not a picture that can be read.
    """
    pixels = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    for number, path in enumerate(paths):
        picture = np.asarray(_open(path, size, "L" if channels == 1 else "RGB"))
        pixels[number] = picture[None] if channels == 1 else picture.transpose(2, 0, 1)
    return pixels


def natural(path: Path) -> tuple[list[str | int], str]:
    """Sorting key under which `img2.png` comes before `img10.png`."""
    # Texts and numbers alternate, so that only like is compared with like.
    pieces = re.split(r"([0-9]+)", str(path))
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], str(path)


def _open(path: Path, size: int, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise UserError(f"picture {path} has {image.mode!r} pixels of 32 bits; save it with 8 or 16 bits")
            return ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"picture {path} cannot be read ({reason}); repair or remove it") from None


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(piece.startswith(".") for piece in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in ENDINGS and path.is_file()


def _name_digest(path: Path, base: Path) -> bytes:
    return hashlib.sha256(path.relative_to(base).as_posix().encode()).digest()


def _enough(folder: Path, count: int, what: str) -> None:
    if count < FEWEST_A_CLASS:
        raise UserError(
            f"class folder {folder} holds {count} {what}; it needs at least {FEWEST_A_CLASS}, "
            "so that every part gets one"
        )
