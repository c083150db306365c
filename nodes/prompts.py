"""Prompt Set: several prompts to distill over."""

from typing import Any

from dode.errors import FitError

from .host import CATEGORY, Prompts, interrupted, io

# Varied in subject, light, style and composition: what they share is what the fit learns.
DEFAULT = """\
a mountain landscape at sunrise, mist in the valley, wide angle
close-up photo of an old man's face, strong side light
a small sailboat on a stormy sea, oil painting
a single red flower in a glass vase, plain background
a stone house with a blue door on a village street, watercolour
a koi fish seen from above in dark water, ripples
a lone oak tree in a field of snow, minimalist
a ringed planet above a desert horizon, science fiction art
a crowded night market in the rain, neon signs
a bowl of ramen on a wooden table, studio food photo
an astronaut riding a horse, pencil sketch
portrait of a young woman with freckles, soft window light
a steam locomotive crossing an iron bridge, black and white photo
a cute robot reading a book in a library, 3d render
an abstract pattern of blue and gold geometric shapes
a tiger walking through tall grass, telephoto"""


def lines_of(text: str) -> list[str]:
    """The prompts in a text: one a line, without blank lines and lines that start with #."""
    stripped = [line.strip() for line in text.splitlines()]
    return [line for line in stripped if line and not line.startswith("#")]


class DODEPromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODEPromptSet",
            display_name="Prompt Set",
            category=CATEGORY,
            description="Several prompts for Distill Sampler, so that what it learns holds for more than one picture.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "prompts",
                    default=DEFAULT,
                    multiline=True,
                    tooltip="One prompt a line. Blank lines and lines that start with # are left out.",
                ),
            ],
            outputs=[
                Prompts.Output(display_name="prompts", tooltip="For the positive input of Distill Sampler."),
                io.Conditioning.Output(
                    display_name="conditionings",
                    is_output_list=True,
                    tooltip="The same as a list, for nodes in between, such as FluxGuidance, ControlNet or image to video: "
                    "each runs once a prompt. Connect what comes out to Distill Sampler.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, prompts: str) -> Any:
        if clip is None:
            raise FitError("There is no text encoder: the checkpoint holds none. Load one with a CLIP loader.")
        lines = lines_of(prompts)
        if not lines:
            raise FitError("The prompt set is empty. Write at least one prompt, one a line.")
        found: list[Any] = []
        for line in lines:
            interrupted()
            found.append(clip.encode_from_tokens_scheduled(clip.tokenize(line)))
        return io.NodeOutput(found, found)


NODES = [DODEPromptSet]
