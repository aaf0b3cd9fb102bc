"""What decoding took of an image and what it changed: frames, scaled values, transparency; of each and of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from PIL.Image import Image

from common.images.modes import SCALED, TRANSPARENT, Scaling
from common.log.events import Animation, Scaled, Skipped, Transparency
from common.log.writer import RunLog

FRAMES = "frames"  # the key in an image's info that counts those of an animation


@dataclass
class Remarks:
    """By the images' names: how many frames of which the first was taken, what was scaled, whose alpha was dropped."""

    frames: dict[str, int] = field(default_factory=dict)
    scaled: dict[str, Scaling] = field(default_factory=dict)
    transparent: list[str] = field(default_factory=list)

    def note(self, name: str, image: Image) -> None:
        if FRAMES in image.info:
            self.frames[name] = image.info[FRAMES]
        if SCALED in image.info:
            self.scaled[name] = image.info[SCALED]
        if TRANSPARENT in image.info:
            self.transparent.append(name)

    def add(self, other: Remarks) -> None:
        self.frames |= other.frames
        self.scaled |= other.scaled
        self.transparent += other.transparent

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Remarks:
        fields = json.loads(text)
        return cls(**{**fields, "scaled": {name: Scaling(*values) for name, values in fields["scaled"].items()}})


class ImagesReport:
    """Records what is remarked of each image and which are left out; what many share is printed once, at the end."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.scaled = self.own_range = self.transparent = 0
        self.first_scaled = self.first_transparent = ""

    def add(self, remarks: Remarks, skipped: Mapping[str, str]) -> None:
        for name, reason in skipped.items():
            self.log.line(f"warning: {name} is left out: it {reason}")
            self.log.record(Skipped(image=name, reason=reason))
        for name, count in remarks.frames.items():
            self.log.line(f"{name} has {count} frames: the first is taken")
            self.log.record(Animation(image=name, frames=count))
        for name, scaling in remarks.scaled.items():
            self.log.record(Scaled(image=name, mode=scaling.mode, black=scaling.black, white=scaling.white))
            self.first_scaled = self.first_scaled or f"{name}, {scaling}"
            self.own_range += scaling.is_own_range
        self.scaled += len(remarks.scaled)
        self.first_transparent = self.first_transparent or next(iter(remarks.transparent), "")
        self.transparent += len(remarks.transparent)

    def finish(self) -> None:
        if self.scaled:
            self.log.line(
                f"Images of more than 8 bits, scaled to 8: {self.scaled} ({self.own_range} by their own darkest and "
                f"brightest value), the first {self.first_scaled}"
            )
        if self.transparent:
            self.log.line(
                f'Images with transparency, which is dropped as convert("RGB") does: {self.transparent}, the first '
                f"{self.first_transparent}"
            )
            self.log.record(Transparency(images=self.transparent, image=self.first_transparent))
