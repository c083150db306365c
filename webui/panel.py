"""The accordion on the page for txt2img: distill on the loaded checkpoint."""

import html
from typing import Any

from dode.fit.all_numbers import MODES

from .distill import Settings, distill
from .host import feature, loaded, optional, state
from .model_info import model_info

scripts: Any = feature("modules.scripts")
# Components of the page, by the names that the host gives them: the prompts and the size are those of txt2img.
_OF_THE_PAGE = ("txt2img_prompt", "txt2img_neg_prompt", "txt2img_width", "txt2img_height")


class DistillPanel(scripts.Script):
    def __init__(self) -> None:
        super().__init__()
        self.page: dict[str, Any] = {}
        self.own: list[Any] = []
        self.outputs: list[Any] = []
        self.button: Any = None

    def title(self) -> str:
        return "D-ODE: distill a sampler"

    def show(self, is_img2img: bool) -> Any:
        return False if is_img2img else scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        gr: Any = feature("gradio")
        with gr.Accordion(self.title(), open=False, elem_id="dode_accordion"):
            gr.HTML(
                "<p>Learns a few numbers for each step, so that few steps land where many steps land: on the loaded "
                "checkpoint, with the prompts and the size above. For 4 steps it takes about as long as 75 pictures of 20 "
                "steps, for 6 as 125, for 8 as 200. Afterwards the sampler D-ODE uses it at these steps and this CFG scale.</p>"
            )
            with gr.Row():
                steps = gr.Slider(label="Steps", minimum=2, maximum=20, step=1, value=6, elem_id="dode_steps")
                cfg = gr.Slider(label="CFG Scale", minimum=1, maximum=30, step=0.5, value=7, elem_id="dode_cfg")
            with gr.Row():
                mode = gr.Dropdown(label="Effort", choices=list(MODES), value=next(iter(MODES)), elem_id="dode_effort")
                at_once = gr.Slider(label="Samples at once", minimum=1, maximum=16, step=1, value=4, elem_id="dode_at_once")
            prompts = gr.Textbox(
                label="Prompts, one a line; with none, the prompt above is used", lines=3, value="", elem_id="dode_prompts"
            )
            name = gr.Textbox(label="Name of the file in models/dode", value="my_sampler", lines=1, elem_id="dode_name")
            with gr.Row():
                self.button = gr.Button("Distill", variant="primary", elem_id="dode_distill")
                stop = gr.Button("Stop and keep", elem_id="dode_stop")
            picture = gr.Gallery(label="First pictures of the new sampler", elem_id="dode_pictures", columns=4, height=200)
            said = gr.HTML(elem_id="dode_report")
            self.task = gr.Textbox(visible=False, value="", elem_id="dode_task")
        stop.click(fn=interrupt, inputs=[], outputs=[])
        self.own, self.outputs = [steps, cfg, mode, at_once, prompts, name], [picture, said]
        self._connect()
        for component in (self.task, *self.own):
            component.do_not_save_to_config = True
        return []

    def after_component(self, component: Any, **kwargs: Any) -> None:
        name = kwargs.get("elem_id")
        if name in _OF_THE_PAGE:
            self.page[name] = component
            self._connect()

    def _connect(self) -> None:
        """Give the button its work, once all is there that it needs: the order of the page is the user's."""
        if self.button is None or len(self.page) < len(_OF_THE_PAGE):
            return
        call = feature("modules.call_queue:wrap_gradio_gpu_call")(on_main_thread, extra_outputs=[None])
        inputs = [self.task, *(self.page[name] for name in _OF_THE_PAGE), *self.own]
        self.button.click(fn=call, _js="dodeDistill", inputs=inputs, outputs=self.outputs, show_progress=False)
        self.button = None


def interrupt() -> None:
    """The host's own Interrupt: its button shows only while txt2img runs."""
    state().interrupt()


def on_main_thread(task: str, *values: Any) -> Any:
    """In Forge, models are used by one thread alone."""
    run = optional("modules_forge.main_thread:run_and_wait_result")
    return press(*values) if run is None else run(press, *values)


def press(
    prompt: str,
    negative: str,
    width: float,
    height: float,
    steps: float,
    cfg: float,
    mode: str,
    at_once: float,
    prompts: str,
    name: str,
) -> list[Any]:
    """The button: pictures, and a report as HTML. What goes wrong is said by the host, as for its own buttons."""
    lines = [line.strip() for line in prompts.splitlines() if line.strip()] or [prompt.strip()]
    sizes = {"width": int(width), "height": int(height), "steps": int(steps), "at_once": int(at_once)}
    processed, text = distill(Settings(lines, negative, cfg=float(cfg), mode=mode, name=name, **sizes))
    print(f"D-ODE: {text}", flush=True)
    checkpoint = model_info(loaded()).name
    return [processed.images[-len(lines) :], f"<pre style='white-space: pre-wrap'>{html.escape(f'{checkpoint}: {text}')}</pre>"]
